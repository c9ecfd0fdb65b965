"""One scan of a dataset: its image, the revisions of its label, and the last prediction of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from mper.datasets.masks import check_mask
from mper.datasets.revisions import Revision, RevisionFolder
from mper.datasets.scan_record import geometry_from_dict, voxels_sha256
from mper.labels import UNLABELLED, Label
from mper.strokes import StrokeList, check_strokes, strokes_to_label
from mper.utils.files import read_json, write_json
from mper.volume import Geometry, Volume

_PREDICTION = "prediction.json"


@dataclass(frozen=True, eq=False)
class Case:
    """One scan of a dataset with the revisions of its label; `Dataset.case` gives it."""

    path: Path
    labels: tuple[Label, ...]

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def source(self) -> dict[str, str]:
        """Where the scan came from; no patient data."""
        return dict(self._record["source"])

    @cached_property
    def geometry(self) -> Geometry:
        """The image's grid, without reading its voxels."""
        return geometry_from_dict(self._record["geometry"])

    @property
    def is_labelled(self) -> bool:
        return self._revisions.any()

    @property
    def is_drawn(self) -> bool:
        """Whether the newest label has a labelled voxel; one that is 255 throughout was only begun."""
        numbers = self._revisions.numbers()
        if not numbers or not self._revisions.read(numbers[-1]).partial:
            return bool(numbers)
        label = self.label()
        return label is not None and bool((label.array != UNLABELLED).any())

    @property
    def is_draft(self) -> bool:
        """Whether the newest label is an unedited prediction."""
        newest = self._revisions.newest()
        return newest is not None and newest.is_draft

    @property
    def is_partial(self) -> bool:
        """Whether the newest label leaves voxels unlabelled."""
        newest = self._revisions.newest()
        return newest is not None and newest.partial

    @property
    def is_painted(self) -> bool:
        """Whether the newest label holds the voxels of strokes alone."""
        newest = self._revisions.newest()
        return newest is not None and newest.how == "strokes" and newest.partial

    @property
    def voxels_sha256(self) -> str | None:
        """Checksum of the voxels (`mper.datasets.scan_record.voxels_sha256`); None for cases of old versions."""
        return self._record.get("voxels_sha256")

    @property
    def image_file(self) -> Path:
        return self.path / "image.nrrd"

    def image(self) -> Volume:
        from mper.io import read_volume

        return read_volume(self.image_file)

    def revisions(self) -> list[Revision]:
        """All revisions of the label, oldest first."""
        return [self._revisions.read(number) for number in self._revisions.numbers()]

    def label(self, revision: int | None = None) -> Volume | None:
        """The label (uint8, 255 unlabelled) of a revision, the newest by default; None where there is no label at all.

        Raises
        ------
        ValueError
            If there is no such revision.
        """
        from mper.io import read_volume

        numbers = self._revisions.numbers()
        if revision is None:
            if not numbers:
                return None
            revision = numbers[-1]
        elif revision not in numbers:
            known = ", ".join(str(n) for n in numbers) or "none"
            raise ValueError(f"case {self.id} has no label revision {revision}; it has {known}")
        return read_volume(self._revisions.voxels_file(revision))

    def add_label(
        self,
        mask: Volume,
        *,
        author: str,
        how: str,
        edited: bool = False,
        model: tuple[str, str] | None = None,
        seconds: float | None = None,
        parent: int | None = None,
        strokes: StrokeList | None = None,
    ) -> Revision:
        """Add a revision; earlier ones stay.

        Parameters
        ----------
        mask : Volume
            Whole numbers on the image's grid: 0 background, 255 unlabelled, else a value of the dataset's labels.
        author, how, edited, model, seconds, parent
            As in `Revision`.
        strokes : StrokeList or None
            The strokes that it was made with; saved with it.

        Raises
        ------
        ValueError
            If the mask lies on another grid or holds a value that no label names, `parent` does not exist, or the
            strokes were drawn on another scan or name something unknown.
        """
        from mper.io import write_volume
        from mper.io.strokes import write_strokes

        whole = check_mask(mask, self.geometry, self.labels, f"case {self.id}")
        if strokes is not None:
            self._check_strokes(strokes)
        if parent is not None and parent not in self._revisions.numbers():
            raise ValueError(f"case {self.id} has no label revision {parent} that could be the parent of a new one")
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        partial = bool((whole.array == UNLABELLED).any())
        with self._revisions.new() as number:
            write_volume(self._revisions.voxels_file(number), whole)
            if strokes is not None:
                write_strokes(self._revisions.strokes_file(number), strokes, self.labels)
            revision = Revision(number, author, when, how, edited, model, seconds, parent, partial, strokes is not None)
            self._revisions.publish(revision)
        return revision

    def add_painted(
        self, strokes: StrokeList, *, author: str, seconds: float | None = None, parent: int | None = None
    ) -> Revision:
        """Add a revision of strokes alone: labelled where they are, 255 elsewhere.

        Raises
        ------
        ValueError
            If there is no stroke, or one lies outside the scan, or as `add_label`.
        """
        self._check_strokes(strokes)
        if not strokes.strokes:
            raise ValueError(f"the list has no stroke to label case {self.id} with; draw one")
        mask = Volume(strokes_to_label(strokes.strokes, self.geometry), self.geometry)
        return self.add_label(mask, author=author, how="strokes", seconds=seconds, parent=parent, strokes=strokes)

    def strokes(self, revision: int) -> StrokeList | None:
        """The strokes that are saved with a revision of the label; None where there are none.

        Raises
        ------
        ValueError
            If they are damaged.
        """
        from mper.io.strokes import read_strokes

        path = self._revisions.strokes_file(revision)
        return read_strokes(path, self.labels) if path.exists() else None

    def keep_strokes(self, revision: int, strokes: StrokeList) -> None:
        """Save the strokes that a revision was made with; they never change.

        Raises
        ------
        ValueError
            If there is no such revision, or the strokes were drawn on another scan or name something unknown.
        FileExistsError
            If the revision has other strokes.
        """
        from mper.io.strokes import write_strokes

        if revision not in self._revisions.numbers():
            raise ValueError(f"case {self.id} has no label revision {revision} to save strokes with")
        self._check_strokes(strokes)
        kept = self.strokes(revision)
        if kept is None:
            try:
                write_strokes(self._revisions.strokes_file(revision), strokes, self.labels, new=True)
                return
            except FileExistsError:  # somebody else was faster
                kept = self.strokes(revision)
        if kept != strokes:
            raise FileExistsError(
                f"label revision {revision} of case {self.id} has other strokes, which never change; "
                "save a new revision with the new ones"
            )

    def last_prediction(self) -> dict[str, Any] | None:
        """The record of the last prediction (`keep_prediction`); None where there is none."""
        try:
            return read_json(self.path / _PREDICTION)
        except (FileNotFoundError, ValueError):  # a damaged one is only computed again
            return None

    def keep_prediction(self, record: Mapping[str, Any]) -> None:
        """Save the record of a prediction (figures that JSON can hold) in place of the last one."""
        write_json(self.path / _PREDICTION, record)

    def _check_strokes(self, strokes: StrokeList) -> None:
        check_strokes(strokes.strokes, self.labels)
        theirs = strokes.scan_sha256
        if theirs is not None and theirs != (self.voxels_sha256 or voxels_sha256(self.image())):
            raise ValueError(f"the strokes were drawn on another scan than case {self.id}: the checksums differ")
        for number, stroke in enumerate(strokes.strokes, 1):
            if not len(stroke.voxels(self.geometry)):
                raise ValueError(f"stroke {number} covers no voxel of case {self.id}; points are in LPS mm of its scan")

    @cached_property
    def _revisions(self) -> RevisionFolder:
        return RevisionFolder(self.path / "labels")

    @cached_property
    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "case.json")
