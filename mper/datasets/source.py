"""What an import source holds: its cases, not yet read, and what the values of their masks mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mper.datasets.revisions import Revision
from mper.datasets.scan_record import voxels_sha256
from mper.labels import Label
from mper.progress import Notify
from mper.provenance import AUTOMATIC, Provenance
from mper.roi import Box
from mper.utils.coded import Coded
from mper.volume import Volume

Pair = tuple[Volume, Volume | None]
Read = Callable[[Notify], Pair]


@dataclass(frozen=True, eq=False)
class SourceCase:
    """A case of a source that has not been read yet.

    Parameters
    ----------
    id : str
        Its id in the dataset.
    place : str
        Where it lies, for messages. Not stored.
    files : tuple of Path
        The image's files.
    named : str or None
        What is stored about where it came from: a path within the source; None where even names may tell who the
        patient is (DICOM exports).
    read : callable
        Takes where notes go, and gives image and mask (None without one); the mask's values are those of the source's
        labels.
    origin : mapping of str to str
        What else is stored about where it came from: the phase, the image type.
    region_mm : six numbers or None
        The region that is used of it (`mper.datasets.maintenance.set_region`).
    mask : Path or None
        The file of its mask, where it is known how it was made.
    made : Provenance or None
        How its mask was made, as far as a program took part.
    exported : (str, Revision) or None
        Checksum of the voxels of the label that was exported (`mper.datasets.export`), and its record, which holds as
        long as they are the same.
    """

    id: str
    place: str
    files: tuple[Path, ...]
    named: str | None
    read: Read
    origin: Mapping[str, str] = field(default_factory=dict)
    region_mm: Box | None = None
    mask: Path | None = None
    made: Provenance | None = None
    exported: tuple[str, Revision] | None = None

    @property
    def unedited(self) -> str:
        """That its mask is unedited output of a program, in one line; empty where it is not, or does not say so."""
        if self.mask is None or self.made is None or self.made.type != AUTOMATIC:
            return ""
        return _unedited(self.mask, f"{self.made.algorithm} {self.made.version}".strip())

    def record_of(self, image: Volume, mask: Volume) -> Revision | None:
        """How the mask of an exported dataset, as it was read, was made; None where that is unknown or it was changed.

        It was changed where its voxels are others, or it does not lie on the scan's grid any more.
        """
        if self.exported is None:
            return None
        sha256, revision = self.exported
        return revision if mask.geometry.is_close(image.geometry) and voxels_sha256(mask) == sha256 else None

    def unedited_or_draft(self, image: Volume, mask: Volume) -> str:
        """As `unedited`, of the mask as it was read, also for a draft of an exported dataset."""
        made = self.record_of(image, mask)
        if self.mask is None or made is None or not made.is_draft:
            return self.unedited
        return _unedited(self.mask, " ".join(made.model or ("a model",)).strip())

    def sha256(self) -> str:
        """Of the image's file; of the sorted digests of its files where there are several."""
        digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files)
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def _unedited(mask: Path, program: str) -> str:
    line = f"{mask.name} is an unedited mask of {program}, no person's label"
    return Coded(line, "mask-of-a-model", mask=mask.name, model=program)


@dataclass(frozen=True, eq=False)
class Source:
    """A source whose layout was recognised.

    Parameters
    ----------
    layout : str
        Name of the layout.
    cases : mapping of str to SourceCase
        By id, in their natural order.
    labels : tuple of Label
        What the masks' values mean; empty where the layout does not say.
    masks : bool
        Whether the source has masks.
    partial : bool
        Whether 255 in the masks means unlabelled. (Elsewhere a mask of 0 and 255 is one of 0 and 1.)
    splits : mapping of str to tuple of str
        Splits that the layout itself defines, by name.
    notices : tuple of str
        What was left out and why, a line each.
    whole : bool
        Whether cases of no split are imported, too.
    holdout : str or None
        The split that is locked when a dataset is made of this source.
    second_holdout : tuple of str
        Cases that are then held out beside it.
    """

    layout: str
    cases: Mapping[str, SourceCase]
    labels: tuple[Label, ...] = ()
    masks: bool = True
    partial: bool = False
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    whole: bool = False
    holdout: str | None = None
    second_holdout: tuple[str, ...] = ()


def file_case(case_id: str, image: Path, source: Path, read: Read) -> SourceCase:
    """The case of one image file below `source`."""
    return SourceCase(case_id, str(image), (image,), image.relative_to(source).as_posix(), read)


def by_id(cases: Sequence[SourceCase]) -> dict[str, SourceCase]:
    """The cases by their ids.

    Raises
    ------
    ValueError
        If two cases have one id.
    """
    found: dict[str, SourceCase] = {}
    for case in cases:
        other = found.setdefault(case.id, case)
        if other is not case:
            raise ValueError(f"{other.place} and {case.place} would both be case {case.id!r}; rename one of them")
    return found


def sub_folders(folder: Path) -> list[Path]:
    """The folders in `folder`, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def volume_files(folder: Path, endings: Iterable[str] | None = None) -> list[Path]:
    """The files in `folder` with one of `endings` (default: those that mper reads), hidden ones left out."""
    from mper.io import SCAN_SUFFIXES, is_scan_file

    chosen = SCAN_SUFFIXES if endings is None else tuple(ending.lower() for ending in endings)
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if is_scan_file(path) or path.name.lower().endswith(".seg.nrrd"))
    return sorted(
        path for path in files if path.is_file() and path.name.lower().endswith(chosen) and path.name[0] != "."
    )


def stem(path: Path) -> str:
    """The file's name without its ending; ``.nii.gz`` and ``.seg.nrrd`` are one ending."""
    from mper.io import SCAN_SUFFIXES

    endings = [e for e in (".seg.nrrd", *SCAN_SUFFIXES) if path.name.lower().endswith(e)]
    return path.name[: -len(max(endings, key=len))] if endings else path.name


def read_mask_values(path: Path, notify: Notify) -> Volume:
    """A mask with the numbers that its file holds, of any size; values almost whole are rounded, with a note.

    Raises
    ------
    ValueError
        If it holds values that are not whole numbers.
    """
    from mper.io import read_labelmap, read_volume
    from mper.io.labelmap import whole_numbers

    if path.name.lower().endswith((".nrrd", ".nhdr", ".h5")):
        return read_labelmap(path, notify)
    volume = read_volume(path, notify=notify)
    return volume.with_array(whole_numbers(volume.array, str(path), notify))
