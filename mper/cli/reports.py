"""The DICOM structured report that `mper segment --sr` writes next to its segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.labels import Segmentation
    from mper.models.card import StoredBundle


def report_on_mask(
    path: Path,
    seg: Path,
    mask: Segmentation,
    series: DicomSeries,
    stored: StoredBundle,
    answer: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure a new mask and write the report.

    Parameters
    ----------
    path, seg : Path
        Of the report, and of the DICOM-SEG that was just written.
    mask : Segmentation
    series : DicomSeries
    stored : StoredBundle
        The model; the wall of an atrium is measured where it segments LGE-MRI.
    answer : mapping
        Of the segmentation, for JSON: `notes` are extended.

    Returns
    -------
    dict
        Additions to the answer: the report, its figures, all notes.
    """
    from mper.cli.measure import stored_body
    from mper.dicom.sr_write import write_sr
    from mper.measurement.case import CaseSettings, measure_case
    from mper.measurement.figures import body_surface_m2

    notes: list[str] = list(answer["notes"])
    height, weight = stored_body(series)
    body = None
    if height is None or weight is None:
        notes.append("no indices by body surface area: the DICOM header has no height or weight")
    else:
        try:
            body = body_surface_m2(height, weight)
        except ValueError as error:
            notes.append(f"no indices by body surface area: in the DICOM header {error}")
    enhanced = "late gadolinium" in str(stored.card.about.get("modality", "")).lower()
    scan = series.volume if enhanced else None
    measured = measure_case([mask], scan, CaseSettings(body_m2=body))
    notes += measured.notes
    write_sr(path, measured.figures, seg, mask, series, notes.append, notes=tuple(notes))
    return {
        "sr": str(path),
        "figures": [figure.to_dict() for figure in measured.figures],
        "notes": [*dict.fromkeys(notes)],
    }
