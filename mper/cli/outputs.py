"""The files that `mper segment` writes: their names, and the checks that no scan is replaced."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mper.utils.cleanup import remove_unfinished
from mper.utils.errors import UsageError

if TYPE_CHECKING:
    from mper.roi import Box

VOLUME_ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha")
MASK_ENDINGS = (".seg.nrrd", *VOLUME_ENDINGS)
SEG_ENDING = ".dcm"  # a DICOM segmentation; one scan at a time
_SCAN_ENDINGS = (*MASK_ENDINGS, ".nhdr", ".mhd", ".h5", ".dcm")


@dataclass(frozen=True)
class SegmentationTask:
    """One scan and the files that it becomes.

    `files` are those of a DICOM series that was found below a folder; `region_mm` is the region of a case of a dataset,
    in LPS mm.
    """

    scan: Path
    mask: Path
    prototypes: Path | None = None
    probabilities: Path | None = None
    files: tuple[Path, ...] = ()
    region_mm: Box | None = None

    def of_phase(self, number: int, count: int) -> SegmentationTask:
        """The task of one phase of several: ``mask.nii.gz`` becomes ``mask-phase03.nii.gz``."""

        def named(path: Path | None) -> Path | None:
            if path is None:
                return None
            base = stem(path)
            return path.with_name(f"{base}-phase{number:0{len(str(count))}}{path.name[len(base) :]}")

        mask = named(self.mask)
        assert mask is not None
        return replace(self, mask=mask, prototypes=named(self.prototypes), probabilities=named(self.probabilities))

    def results(self, labels: Sequence[str]) -> list[Path]:
        """Every file that is written for a mask of these labels."""
        probabilities = [] if self.probabilities is None else probability_files(self.probabilities, labels)
        return [self.mask, *([self.prototypes] if self.prototypes else []), *probabilities]

    def make_folders(self) -> None:
        """Make the folders that the results go into, and remove what killed programs left there half-written."""
        folders = {path.parent for path in (self.mask, self.prototypes, self.probabilities) if path is not None}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folders)


def single_task(scan: Path, output: Path, prototypes: Path | None, probabilities: Path | None) -> SegmentationTask:
    """The task of one scan; an `output` that is a folder takes the scan's name.

    Raises
    ------
    UsageError
        If a name has an ending that cannot be written, or names the scan or the same file twice.
    """
    mask = output / f"{stem(scan)}.seg.nrrd" if output.is_dir() else output
    check_ending(mask, (*MASK_ENDINGS, SEG_ENDING))
    for extra, endings in ((prototypes, MASK_ENDINGS), (probabilities, VOLUME_ENDINGS)):
        if extra is not None:
            check_ending(extra, endings)
    task = SegmentationTask(scan, mask, prototypes, probabilities)
    _check_distinct([task])
    return task


def cohort_tasks(
    scans: Sequence[Path], output: Path, prototypes: Path | None, probabilities: Path | None
) -> list[SegmentationTask]:
    """The tasks of a cohort: results are named as the scans, and in the same sub-folders, below each output folder.

    Raises
    ------
    UsageError
        If an output is a file, or a result would replace a scan.
    """
    for folder in (output, prototypes, probabilities):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; for several scans the results need a folder")
    names = mirrored_names(scans)
    tasks = [
        SegmentationTask(
            scan,
            output / f"{name}.seg.nrrd",
            prototypes / f"{name}.nrrd" if prototypes else None,
            probabilities / f"{name}.nrrd" if probabilities else None,
        )
        for scan, name in zip(scans, names, strict=True)
    ]
    _check_distinct(tasks)
    return tasks


def names_file(path: Path) -> bool:
    """Whether a path has a name as files have, and is no folder."""
    return path.name.lower().endswith(_SCAN_ENDINGS) and not path.is_dir()


def mirrored_names(scans: Sequence[Path]) -> list[str]:
    """A unique relative name without ending for each scan, with the folders that distinguish the scans."""
    places = [scan.resolve() for scan in scans]
    try:
        common = Path(os.path.commonpath([place.parent for place in places]))
        relative = [place.relative_to(common) for place in places]
    except ValueError:  # several drives on Windows
        relative = [
            Path(place.drive.replace(":", "").strip("\\/").replace("\\", "_"), *place.parts[1:]) for place in places
        ]
    short = [name.with_name(stem(name)) for name in relative]
    # A system that takes a.nrrd and A.nrrd for one file must not lose a result: compare without case.
    twice = Counter(str(name).casefold() for name in short)
    names = [
        (full if twice[str(name).casefold()] > 1 else name).as_posix()
        for name, full in zip(short, relative, strict=True)
    ]
    seen: Counter[str] = Counter()
    for position, name in enumerate(names):
        seen[name.casefold()] += 1
        if seen[name.casefold()] > 1:
            names[position] = f"{name}-{seen[name.casefold()]}"
    return names


def stem(scan: Path) -> str:
    """A scan's name without its ending, ``.nii.gz`` and the like as a whole."""
    for ending in _SCAN_ENDINGS:
        if scan.name.lower().endswith(ending) and len(scan.name) > len(ending):
            return scan.name[: -len(ending)]
    return scan.resolve().name


def is_older_mask(path: Path) -> bool:
    """Whether the file at `path` is a mask, which a new result may replace, and no scan."""
    from mper.io import read_labelmap

    if path.name.lower().endswith(".seg.nrrd"):
        return True
    try:
        if path.name.lower().endswith(SEG_ENDING):
            from mper.dicom.seg_read import open_seg

            return bool(open_seg(path))
        array = read_labelmap(path).array
    except (ValueError, OSError):
        return False
    # Few small numbers: scans in eight bits use most of the 256, label maps number their structures from 1.
    present = set(array.reshape(-1)[:: max(1, array.size // 1_000_000)].tolist()) - {255}
    return max(present, default=0) < 64 and len(present) < 32


def is_older_probability(path: Path) -> bool:
    """Whether the file at `path` is a map of probabilities: fractions from 0 to 1."""
    from mper.io import read_volume

    try:
        array = read_volume(path).array
    except (ValueError, OSError):
        return False
    return array.dtype.kind == "f" and bool(array.min() >= 0 and array.max() <= 1)


def check_replaceable(path: Path, probability: bool = False) -> None:
    """Raise UsageError where `path` is a file that does not look like an older result: a mask, or a probability."""
    if path.is_file() and not (is_older_probability(path) if probability else is_older_mask(path)):
        raise UsageError(
            f"{path} exists and does not look like a {'map of probabilities' if probability else 'mask'}, so it is "
            "not replaced; choose another name, or delete it first"
        )


def check_results(task: SegmentationTask, labels: Sequence[str]) -> None:
    """Raise UsageError where a result would replace a file that is none: a scan, above all."""
    for path in task.results(labels):
        check_replaceable(path, probability=path not in (task.mask, task.prototypes))


def check_writable(folder: Path) -> None:
    """Try to write into a folder before the work, not after it.

    Raises
    ------
    OSError
        If the folder is missing or nothing can be written there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the output folder {folder} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        explained = type(error)(f"cannot write into the output folder {folder}: {error.strerror or error}")
        explained.errno = error.errno
        raise explained from error


def probability_files(path: Path, labels: Sequence[str]) -> list[Path]:
    """One file a label: `path` itself for one, else ``prob.nii.gz`` -> ``prob-LV.nii.gz``."""
    if len(labels) == 1:
        return [path]
    base = stem(path)
    safe = [re.sub(r"[^\w-]+", "_", label) for label in labels]
    return [path.with_name(f"{base}-{label}{path.name[len(base) :]}") for label in safe]


def check_ending(path: Path, endings: Sequence[str]) -> None:
    """Raise UsageError unless the name of `path` has one of `endings`."""
    name = path.name.lower()
    if not name.endswith(tuple(endings)) or (name.endswith(".seg.nrrd") and ".seg.nrrd" not in endings):
        raise UsageError(f"cannot write {path}: its name must end in {', '.join(endings[:-1])} or {endings[-1]}")


def _check_distinct(tasks: Sequence[SegmentationTask]) -> None:
    scans = {task.scan.resolve() for task in tasks}
    files = {_file_of(scan) for scan in scans} - {None}
    taken: set[Path] = set()
    for task in tasks:
        for path in (task.mask, task.prototypes, task.probabilities):
            if path is None:
                continue
            place = path.resolve()
            if place in scans or _file_of(path) in files:
                raise UsageError(f"the result {path} would replace a scan; choose another output")
            if place in taken:
                raise UsageError(f"two results would be written to {path}; choose different files")
            taken.add(place)


def _file_of(path: Path) -> tuple[int, int] | None:
    """Which file of which disk a path is, whatever it is called; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
