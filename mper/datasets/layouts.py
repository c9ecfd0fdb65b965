"""Which layout an import source has: nnU-Net's, that of a public set, scans with masks, or scans alone.

====================  =====================================================  ====================================
layout                files                                                  masks
====================  =====================================================  ====================================
exports of datasets   mper-export.json, see `mper.datasets.export`          as exported
nnU-Net raw           imagesTr, labelsTr, imagesTs, dataset.json             as dataset.json says; `ignore` is 255
public sets           see `mper.datasets.public_sets`                        as published
scans with masks      see `mper.datasets.pairs`                              as their names, or --labels, say
scans                 files or DICOM series                                  none
====================  =====================================================  ====================================
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from mper.datasets.exported import exported_source, is_export
from mper.datasets.index import is_dataset
from mper.datasets.nnunet import is_nnunet, nnunet_source
from mper.datasets.pairs import paired_source
from mper.datasets.public_sets import public_source, with_scribbles
from mper.datasets.source import Pair, Source, SourceCase, by_id, file_case, stem, sub_folders
from mper.progress import Notify, ignore_notice
from mper.utils.coded import Coded
from mper.utils.text import shorten


def find_source(path: Path, scribbles: bool = False) -> Source:
    """Recognise the layout of `path`; with `scribbles` the masks are the scribbles that ACDC h5 has.

    Raises
    ------
    FileNotFoundError
        If it does not exist or holds no scan.
    ValueError
        If it is a dataset already, its layout is known but cannot be imported, or it has no scribbles.
    """
    source = _find(path)
    return with_scribbles(source, path) if scribbles else source


def _find(path: Path) -> Source:
    if not path.exists():
        raise FileNotFoundError(Coded(f"{path} does not exist", "file-missing", path=str(path)))
    if path.is_file():
        from mper.io.volumes import check_kind

        check_kind(path)
        return _scans(path, [path])
    if is_export(path):
        return exported_source(path)
    if is_nnunet(path):
        return nnunet_source(path)
    if is_dataset(path):
        raise ValueError(
            Coded(
                f"{path} is a dataset or part of one already; import the folder that its scans came from",
                "is-a-dataset",
                path=str(path),
            )
        )
    if tasks := [folder for folder in sub_folders(path) if is_nnunet(folder)]:
        if len(tasks) > 1:
            raise ValueError(f"{path} holds {shorten(folder.name for folder in tasks)} of nnU-Net; import one of them")
        return nnunet_source(tasks[0])
    files = _volume_files_below(path)
    volumes = [file for file in files if not file.name.lower().endswith(".seg.nrrd")]
    return public_source(path, volumes) or paired_source(path, files) or _scans(path, volumes)


def _volume_files_below(folder: Path) -> list[Path]:
    """All files that mper reads by their ending, at any depth; what is hidden is left out."""
    from mper.io import is_scan_file

    return sorted(
        path
        for path in folder.rglob("*")
        if (is_scan_file(path) or (path.name.lower().endswith(".seg.nrrd") and path.is_file()))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _scans(source: Path, files: Iterable[Path]) -> Source:
    """Files and DICOM series, each a case without a label."""
    from mper.io import SCAN_SUFFIXES, find_scans

    cases = [
        file_case(stem(path), path, source if source.is_dir() else source.parent, partial(_read_scan, path))
        for path in files
        if path.name.lower().endswith(SCAN_SUFFIXES)
    ]
    notices: list[str] = []
    if not cases or source.is_dir():
        try:
            found = find_scans([source], notices.append)
        except FileNotFoundError:
            if not cases:
                raise
            found = []
        files_of_dicom = [path for path in found if path.is_file() and not path.name.lower().endswith(SCAN_SUFFIXES)]
        # A series may lie in several folders: all below the source are looked at together.
        for path in [*files_of_dicom, *([source] if any(path.is_dir() for path in found) else [])]:
            for series in dicom_cases(path, notify=notices.append):
                cases.append(series)
                notices.append(f"{series.id} is the DICOM series in {series.place}")
    return Source("scans", by_id(cases), masks=False, notices=tuple(notices))


def dicom_cases(folder: Path, series_uid: str | None = None, notify: Notify = ignore_notice) -> Iterable[SourceCase]:
    """The scans among the series in a folder and below it; or the series with that UID.

    Names of folders and files often tell who the patient is, so that a case is named by a digest of its
    SeriesInstanceUID. `notify` receives what is left out.
    """
    from mper.dicom.series import list_series

    where = folder if folder.is_dir() else folder.parent
    for series in list_series(where, notify):
        if series_uid not in (None, series.uid) or (folder.is_file() and folder not in series.paths):
            continue
        if series.no_scan and (series_uid is None or series.localiser):
            notify(f"left out what is no scan: {series.describe()}")
            continue
        case_id = f"series-{hashlib.sha256(series.uid.encode('utf-8')).hexdigest()[:10]}"
        place = os.path.commonpath([path.parent for path in series.paths])
        files = (folder,) if folder.is_file() else series.paths
        yield SourceCase(case_id, place, files, None, partial(_read_series, files))


def _read_scan(path: Path, notify: Notify) -> Pair:
    from mper.io.opened import open_scan

    scan = open_scan(path, notify=notify)
    (phase,) = scan.phases.chosen(None)
    return scan.read(phase), None


def _read_series(files: Sequence[Path], notify: Notify) -> Pair:
    from mper.dicom.series import open_files

    series = open_files(files, notify)
    (phase,) = series.phases.chosen(None)
    return series.read(phase).volume, None
