"""The DICOM instances in files and folders that are to be sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from mper.dicom.headers import no_warnings
from mper.progress import Notify
from mper.utils.files import check_file, is_dicom_file
from mper.utils.text import first_line

_BATCH_BYTES, _BATCH_COUNT = 16 << 20, 25  # of one request


@dataclass(frozen=True)
class Instance:
    """A DICOM file that is to be stored."""

    path: Path
    study: str
    series: str
    uid: str

    def read(self) -> Dataset:
        """The whole file."""
        with no_warnings():
            return pydicom.dcmread(self.path)


def find_instances(paths: Sequence[Path], notify: Notify) -> list[Instance]:
    """The instances in files, and in and below folders, each once.

    Raises
    ------
    ValueError
        If there is none, a file is damaged, or two claim to be the same instance and differ.
    FileNotFoundError
        If a path does not exist.
    """
    instances: dict[str, Instance] = {}
    for path, named in _files(paths):
        instance = _instance(path, named)
        if instance is None:
            continue
        other = instances.setdefault(instance.uid, instance)
        if other is instance or other.path.samefile(path):
            continue
        if other.path.read_bytes() != path.read_bytes():
            raise ValueError(f"{other.path} and {path} claim to be the same instance and differ; send one of them")
        notify(f"{path} is the same instance as {other.path} and is sent once")
    if not instances:
        raise ValueError(f"{', '.join(map(str, paths))} holds no DICOM file")
    return list(instances.values())


def next_batch(waiting: Sequence[Instance]) -> list[Instance]:
    """The next instances for one request: at least one, of one study."""
    batch: list[Instance] = []
    size = 0
    for item in waiting[:_BATCH_COUNT]:
        size += item.path.stat().st_size
        if batch and (size > _BATCH_BYTES or item.study != batch[0].study):
            break
        batch.append(item)
    return batch


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The files, and whether each was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.rglob("*")) if file.is_file())
        else:
            check_file(path)
            yield path, True


def _instance(path: Path, named: bool) -> Instance | None:
    """What a file is; None for a file of a folder that is no DICOM instance."""
    try:
        with no_warnings():
            dataset = pydicom.dcmread(path, stop_before_pixels=True) if is_dicom_file(path) else None
            uids = (
                [str(dataset.get(f"{what}InstanceUID") or "") for what in ("Study", "Series", "SOP")] if dataset else []
            )
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise ValueError(
            f"{path} is damaged, or no whole DICOM file ({first_line(error)}); nothing was sent"
        ) from error
    is_index = dataset is not None and dataset.get("SOPClassUID", "") in ("", MediaStorageDirectoryStorage)
    if dataset is None or is_index:
        if named:
            raise ValueError(f"{path} is not a DICOM instance; nothing was sent")
        return None
    if not all(uids):
        raise ValueError(f"{path} has no study, series and instance UID; nothing was sent")
    return Instance(path, *uids)
