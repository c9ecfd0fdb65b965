"""One scan from file to mask: what `mper segment` and `mper refine` do alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.dicom import exported, not_dicom, phase_number
from mper.cli.outputs import SegmentationTask
from mper.progress import Notify, ignore_notice
from mper.utils.errors import UsageError

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.inference.prediction import Prediction
    from mper.inference.predictor import Predictor
    from mper.io.opened import OpenedScan
    from mper.io.scans import SpacingChoice
    from mper.labels import Segmentation
    from mper.models.card import StoredBundle
    from mper.volume import Volume


def check_single(task: SegmentationTask, series: str | None) -> None:
    """Check the task of a single scan before its work.

    Raises
    ------
    UsageError, OSError
        If the scan cannot become what is asked for, a result would replace what is no mask, or cannot be written.
    """
    if series and _is_volume(task.scan):
        raise UsageError(f"--series goes with a DICOM folder; {task.scan} is a single volume")
    if is_seg(task) and task.scan.is_file() and _is_volume(task.scan):
        raise not_dicom(task.scan)
    outputs.check_replaceable(task.mask)
    for path in (task.mask, task.prototypes, task.probabilities):
        if path is not None:
            outputs.check_writable(path.parent)


def _is_volume(scan: Path) -> bool:
    from mper.io import SCAN_SUFFIXES

    return scan.name.lower().endswith(SCAN_SUFFIXES)


def is_seg(task: SegmentationTask) -> bool:
    """Whether the result is a DICOM segmentation."""
    return task.mask.name.lower().endswith(outputs.SEG_ENDING)


def open_task(
    task: SegmentationTask,
    series_uid: str | None,
    image_type: str | None,
    notify: Notify,
    spacing: SpacingChoice = None,
) -> OpenedScan:
    """The scan of a task, opened; its phases are checked, and have the spacing that was given, when they are read.

    Raises
    ------
    ValueError
        If it cannot be opened.
    UsageError
        If a DICOM segmentation is asked for, and the scan is not DICOM, or is to have another spacing.
    """
    from mper.io.opened import of_series, open_scan

    if is_seg(task) and isinstance(spacing, tuple):
        raise UsageError("--spacing K,J,I changes the grid, and a DICOM-SEG has that of its series; write a .seg.nrrd")
    if task.files:
        from mper.dicom.series import open_files

        scan = of_series(open_files(task.files, notify, image_type), task.files[0].parent, notify)
    else:
        scan = open_scan(task.scan, series_uid, notify, image_type)
    if is_seg(task) and scan.series is None:
        raise not_dicom(task.scan)
    return replace(scan, read=lambda number: _checked(scan.read(number), spacing, notify))


def read_phase(
    scan: OpenedScan, number: int, task: SegmentationTask, spacing: SpacingChoice = None
) -> tuple[Volume, DicomSeries | None]:
    """A phase that can be segmented, and its series where the result refers to it."""
    if not is_seg(task) or scan.series is None:
        return scan.read(number), None
    series = scan.series.read(number)
    return _checked(series.volume, spacing, ignore_notice), series


def _checked(volume: Volume, spacing: SpacingChoice, notify: Notify) -> Volume:
    from mper.io import check_scan, with_spacing

    check_scan(volume)
    return with_spacing(volume, spacing, notify)


def read_scan(
    task: SegmentationTask,
    series_uid: str | None,
    phase: str | None,
    image_type: str | None,
    spacing: SpacingChoice = None,
) -> tuple[Volume, DicomSeries | None, list[str]]:
    """One phase of a scan, its series where the result refers to it, and what was noticed meanwhile."""
    notes: list[str] = []
    scan = open_task(task, series_uid, image_type, notes.append, spacing)
    volume, series = read_phase(scan, phase_number(scan.phases, phase), task, spacing)
    return volume, series, notes


def load_predictor(stored: StoredBundle, device: str) -> Predictor:
    """The model, ready to segment."""
    from mper.inference.predictor import Predictor
    from mper.models.bundle import ModelBundle

    return Predictor(ModelBundle.load(stored.path), device)


def write_mask(path: Path, mask: Segmentation, series: DicomSeries | None) -> tuple[list[str], dict[str, Any]]:
    """Write a mask in the format of its name; returns notes, and for a DICOM file the result of its check."""
    if series is None:
        from mper.io import write_segmentation

        write_segmentation(path, mask)
        return [], {}
    from mper.dicom.seg_write import write_seg

    report = write_seg(path, mask, series)
    return list(report.notes), exported(path, report)


def model_entry(stored: StoredBundle, predictor: Predictor) -> dict[str, Any]:
    """Model and device, for JSON."""
    card = stored.card
    model = {"name": card.name, "version": card.version, "sha256": stored.sha256}
    return {"model": model, "device": str(predictor.device)}


def quality_entry(prediction: Prediction) -> dict[str, Any] | None:
    """The expected quality of a mask, for JSON."""
    quality = prediction.quality
    if quality is None:
        return None
    return {
        "expected_dice": round(quality.expected_dice, 3),
        "range": [round(quality.low, 3), round(quality.high, 3)],
        "level": quality.level,
        "reasons": list(quality.reasons),
    }


def roi_entry(prediction: Prediction) -> list[float] | None:
    """The region that was segmented, for JSON."""
    return None if prediction.roi_mm is None else [round(x, 3) for x in prediction.roi_mm]


def rounded_volumes(ml: Mapping[str, float | None]) -> dict[str, float | None]:
    """Volumes, for JSON."""
    return {name: None if each is None else round(each, 3) for name, each in ml.items()}


def volume_texts(found: Mapping[str, Any]) -> list[str]:
    """``LA 85.3 mL``, for each structure."""
    return [f"{name} {'of unknown size' if ml is None else f'{ml:.1f} mL'}" for name, ml in found["volumes_ml"].items()]
