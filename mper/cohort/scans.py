"""The scans of a cohort, read again as they were when they were segmented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.utils.coded import Coded
from mper.volume import Geometry, Volume

if TYPE_CHECKING:
    from mper.io.opened import OpenedScan


def read_scan(scan: Path, phase: int | None, options: Mapping[str, Any], grid: Geometry) -> Volume:
    """The scan of a mask.

    Parameters
    ----------
    scan : Path
        As the manifest names it: a file, a folder, or a folder and the UID of one of its DICOM series.
    phase : int or None
        Of a time series, from 1.
    options : mapping
        Of the manifest: series, image_type, spacing.
    grid : Geometry
        Of the mask.

    Raises
    ------
    FileNotFoundError
        If it is not there any more.
    ValueError
        If it cannot be read, or has another grid than its mask.
    """
    from mper.io import with_spacing

    spacing = options.get("spacing")
    volume = _open(scan, options).read(phase or 1)
    volume = with_spacing(volume, tuple(spacing) if isinstance(spacing, list) else spacing or "keep")
    if not volume.geometry.is_close(grid):
        raise ValueError(
            f"{scan} has another grid ({volume.geometry.describe()}) than its mask ({grid.describe()}): it was changed "
            "since; segment it again"
        )
    return volume


def _open(scan: Path, options: Mapping[str, Any]) -> OpenedScan:
    from mper.io.opened import open_scan

    image_type = options.get("image_type")
    if scan.exists():
        return open_scan(scan, options.get("series"), image_type=image_type)
    if not scan.parent.is_dir():
        raise FileNotFoundError(
            Coded(
                f"the scan {scan} is not there any more; put it back, or segment the cohort again",
                "scan-gone",
                scan=str(scan),
            )
        )
    return open_scan(scan.parent, scan.name, image_type=image_type)  # one of several series in a folder
