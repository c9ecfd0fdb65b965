"""One scan of a dataset, its grid, and the append-only revisions of its label."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mper.labels import UNLABELLED, Label, Segmentation
from mper.progress import Notify, ignore_notice
from mper.strokes import StrokeList, check_strokes, strokes_to_label
from mper.utils.files import read_json, write_json
from mper.volume import Geometry, Volume

_PREDICTION = "prediction.json"
_GRID_TOLERANCE = 0.02  # of the smallest voxel spacing
_REVISION = re.compile(r"(\d+)\.json")


@dataclass(frozen=True)
class Revision:
    """Who made a label, when, and with what.

    Parameters
    ----------
    number : int
        1 for a case's first label; a number may be missing (a program that was killed).
    author : str
        Who vouches for it.
    when : str
        UTC, ISO 8601.
    how : str
        'imported', 'hand', 'strokes', 'model'.
    edited : bool
        Whether a person changed what a model or an import gave.
    model : (str, str) or None
        Name and version of the model it came from.
    seconds : float or None
        Time a person spent on it.
    parent : int or None
        Number of the revision it was made from.
    partial : bool
        Whether it leaves voxels unlabelled (255).
    strokes : bool
        Whether the strokes that it was made with are kept beside it.
    """

    number: int
    author: str
    when: str
    how: str
    edited: bool = False
    model: tuple[str, str] | None = None
    seconds: float | None = None
    parent: int | None = None
    partial: bool = False
    strokes: bool = False


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
        return bool(self._numbers())

    @property
    def is_drawn(self) -> bool:
        """Whether the newest label says anything of a voxel: one that is 255 throughout was only begun."""
        numbers = self._numbers()
        if not numbers or not self._revision(numbers[-1]).partial:
            return bool(numbers)
        label = self.label()
        return label is not None and bool((label.array != UNLABELLED).any())

    @property
    def is_draft(self) -> bool:
        """Whether the newest label is what a model drew, and no person changed it."""
        newest = self._newest()
        return newest is not None and newest.how == "model" and not newest.edited

    @property
    def is_partial(self) -> bool:
        """Whether the newest label leaves voxels unlabelled."""
        newest = self._newest()
        return newest is not None and newest.partial

    @property
    def is_painted(self) -> bool:
        """Whether the newest label is what strokes painted, and says nothing of the rest."""
        newest = self._newest()
        return newest is not None and newest.how == "strokes" and newest.partial

    @property
    def voxels_sha256(self) -> str | None:
        """Of the image's values, see `voxels_sha256`; None of a case from before it was noted."""
        return self._record.get("voxels_sha256")

    def image(self) -> Volume:
        from mper.io import read_volume

        return read_volume(self.path / "image.nrrd")

    def revisions(self) -> list[Revision]:
        """All revisions of the label, oldest first."""
        return [self._revision(number) for number in self._numbers()]

    def label(self, revision: int | None = None) -> Volume | None:
        """The label (uint8, 255 unlabelled) of a revision, the newest by default; None where there is no label at all.

        Raises
        ------
        ValueError
            If there is no such revision.
        """
        from mper.io import read_volume

        numbers = self._numbers()
        if revision is None:
            if not numbers:
                return None
            revision = numbers[-1]
        elif revision not in numbers:
            known = ", ".join(str(n) for n in numbers) or "none"
            raise ValueError(f"case {self.id} has no label revision {revision}; it has {known}")
        return read_volume(self.path / "labels" / f"{revision}.nrrd")

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
        """Add a revision; what is there stays as it is.

        Parameters
        ----------
        mask : Volume
            Whole numbers on the image's grid: 0 background, 255 unlabelled, else a value of the dataset's labels.
        author, how, edited, model, seconds, parent
            As in `Revision`.
        strokes : StrokeList or None
            What it was made with; kept beside it.

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
        if parent is not None and parent not in self._numbers():
            raise ValueError(f"case {self.id} has no label revision {parent} that a new one could be made from")
        folder = self.path / "labels"
        folder.mkdir(exist_ok=True)
        number = self._claim(folder)
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        partial = bool((whole.array == UNLABELLED).any())
        revision = Revision(number, author, when, how, edited, model, seconds, parent, partial, strokes is not None)
        record = {key: value for key, value in asdict(revision).items() if key not in ("number", "strokes")}
        if model is not None:
            record["model"] = {"name": model[0], "version": model[1]}
        voxels, claim = folder / f"{number}.nrrd", folder / f"{number}.json"
        drawn = self._strokes_file(number)
        try:
            write_volume(voxels, whole)
            if strokes is not None:
                write_strokes(drawn, strokes, self.labels)
            write_json(claim, record)  # from here on the revision is seen
        except BaseException:
            voxels.unlink(missing_ok=True)
            drawn.unlink(missing_ok=True)
            claim.unlink(missing_ok=True)
            raise
        return revision

    def add_painted(
        self, strokes: StrokeList, *, author: str, seconds: float | None = None, parent: int | None = None
    ) -> Revision:
        """Add a revision that says what was painted and nothing of the rest: labelled there, 255 elsewhere.

        Raises
        ------
        ValueError
            If there is no stroke, or one lies outside the scan, or as `add_label`.
        """
        self._check_strokes(strokes)
        if not strokes.strokes:
            raise ValueError(f"there is no stroke in the list, and so nothing to label case {self.id} by")
        mask = Volume(strokes_to_label(strokes.strokes, self.geometry), self.geometry)
        return self.add_label(mask, author=author, how="strokes", seconds=seconds, parent=parent, strokes=strokes)

    def strokes(self, revision: int) -> StrokeList | None:
        """The strokes that are kept beside a revision of the label; None where there are none.

        Raises
        ------
        ValueError
            If they are damaged.
        """
        from mper.io.strokes import read_strokes

        path = self._strokes_file(revision)
        return read_strokes(path, self.labels) if path.exists() else None

    def keep_strokes(self, revision: int, strokes: StrokeList) -> None:
        """Keep the strokes that a revision was made with beside it, once and for all.

        Raises
        ------
        ValueError
            If there is no such revision, or the strokes were drawn on another scan or name something unknown.
        FileExistsError
            If there are other strokes beside it already.
        """
        from mper.io.strokes import write_strokes

        if revision not in self._numbers():
            raise ValueError(f"case {self.id} has no label revision {revision} to keep strokes with")
        self._check_strokes(strokes)
        kept = self.strokes(revision)
        if kept is None:
            try:
                write_strokes(self._strokes_file(revision), strokes, self.labels, new=True)
                return
            except FileExistsError:  # somebody else was faster
                kept = self.strokes(revision)
        if kept != strokes:
            raise FileExistsError(
                f"label revision {revision} of case {self.id} has its strokes already, and they stay; "
                "save a new revision with the new ones"
            )

    def last_prediction(self) -> dict[str, Any] | None:
        """What a model last said of this case, as `keep_prediction` was told; None where none did."""
        try:
            return read_json(self.path / _PREDICTION)
        except (FileNotFoundError, ValueError):  # a damaged one is only asked again
            return None

    def keep_prediction(self, record: Mapping[str, Any]) -> None:
        """Keep what a model says of this case (figures that JSON can hold), in place of what the last one said."""
        write_json(self.path / _PREDICTION, record)

    @staticmethod
    def _claim(folder: Path) -> int:
        """The next number, claimed by creating <n>.json empty: who finds it there takes the next one.

        A program that is killed after this leaves a gap in the numbers and is in nobody's way.
        """
        number = max((int(found[1]) for _, found in _revision_files(folder)), default=0) + 1
        while True:
            try:
                (folder / f"{number}.json").open("x").close()
                return number
            except FileExistsError:
                number += 1

    def _numbers(self) -> list[int]:
        files = _revision_files(self.path / "labels")
        return sorted(int(found[1]) for path, found in files if path.stat().st_size > 0)

    def _strokes_file(self, number: int) -> Path:
        return self.path / "labels" / f"{number}.strokes.json"

    def _check_strokes(self, strokes: StrokeList) -> None:
        check_strokes(strokes.strokes, self.labels)
        theirs = strokes.scan_sha256
        if theirs is not None and theirs != (self.voxels_sha256 or voxels_sha256(self.image())):
            raise ValueError(f"these strokes were drawn on another scan than case {self.id}: the checksums differ")
        for number, stroke in enumerate(strokes.strokes, 1):
            if not len(stroke.voxels(self.geometry)):
                raise ValueError(
                    f"stroke {number} paints no voxel of case {self.id}; points are in LPS mm, and of its scan"
                )

    def _newest(self) -> Revision | None:
        numbers = self._numbers()
        return self._revision(numbers[-1]) if numbers else None

    def _revision(self, number: int) -> Revision:
        record = read_json(self.path / "labels" / f"{number}.json")
        model = record["model"]
        record["model"] = (model["name"], model["version"]) if model else None
        return Revision(number, **record, strokes=self._strokes_file(number).exists())

    @cached_property
    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "case.json")


def _revision_files(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """The files <n>.json of a folder of labels; no other, such as <n>.strokes.json."""
    return [(path, found) for path in folder.glob("[0-9]*.json") if (found := _REVISION.fullmatch(path.name))]


def voxels_sha256(image: Volume) -> str:
    """A checksum of a scan's shape and values, whatever type they are stored in and wherever the scan lies."""
    digest = hashlib.sha256(repr(image.array.shape).encode())
    for plane in image.array:  # one at a time: a large scan is mapped, not held
        digest.update(np.ascontiguousarray(plane, dtype="<f8").tobytes())
    return digest.hexdigest()


def check_mask(
    mask: Volume, grid: Geometry, labels: Sequence[Label], where: str, notify: Notify = ignore_notice
) -> Volume:
    """`mask` as uint8 on `grid`.

    Grids that lie less than 2 % of a voxel apart are the same: other programs round positions to float32. `notify`
    receives the distance.

    Raises
    ------
    ValueError
        If it is not of whole numbers, lies on another grid, or holds a value that no label names.
    """
    if not mask.geometry.is_close(grid):
        apart = mask.geometry.distance_mm(grid) if mask.geometry.shape == grid.shape else None
        known = mask.geometry.spacing_known and grid.spacing_known
        if not known or apart is None or apart > _GRID_TOLERANCE * min(grid.step_lengths):
            distance = f", up to {apart:.3g} mm apart" if known and apart is not None else ""
            raise ValueError(
                f"{where}: the label's grid differs from the image's: {mask.geometry.describe()}, image "
                f"{grid.describe()}{distance}; a label must lie on its image's grid"
            )
        notify(f"the mask's grid lies {apart:.2g} mm from the image's, less than {_GRID_TOLERANCE:.0%} of a voxel")
    if mask.array.dtype.kind not in "biu":
        raise ValueError(f"{where}: a label holds whole numbers, this one is {mask.array.dtype}; round it first")
    if mask.array.dtype.kind != "b" and (mask.array.min() < 0 or mask.array.max() > 255):
        raise ValueError(f"{where}: label values are 0 to 255, this one has {mask.array.min()} to {mask.array.max()}")
    whole = Volume(mask.array.astype(np.uint8), grid)
    try:
        Segmentation(whole, tuple(labels))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return whole


def geometry_to_dict(geometry: Geometry) -> dict[str, Any]:
    """A grid as JSON can hold it, exactly."""
    return {
        "shape": list(geometry.shape),
        "affine": geometry.affine.tolist(),
        "spacing_known": geometry.spacing_known,
    }


def geometry_from_dict(entry: Mapping[str, Any]) -> Geometry:
    """The grid that `geometry_to_dict` wrote."""
    return Geometry(np.array(entry["affine"]), tuple(entry["shape"]), entry["spacing_known"])
