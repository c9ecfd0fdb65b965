"""The report of ``mper measure`` on one case: a page with pictures, a table of its figures, surfaces of the wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli import outputs

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.labels import Segmentation
    from mper.measurement.case import MeasuredCase
    from mper.models.card import StoredBundle
    from mper.volume import Volume


@dataclass(frozen=True)
class ReportedMask:
    """What a report says of a mask.

    path, scan : its file, and that of its scan; mask : of the first phase; patient : the series whose patient the page
    names, None for no name; creator : who answers for the report; notes : lines for people.
    """

    path: Path
    scan: Path | None
    mask: Segmentation
    patient: DicomSeries | None
    creator: str
    notes: Sequence[str]


def write_report(folder: Path, about: ReportedMask, measured: MeasuredCase, scan: Volume | None) -> list[Path]:
    """Write page, table and surfaces into a folder; returns the files."""
    from mper.utils.files import write_atomically
    from mper.visualization.report import ReportText, figure_table_csv, report_page

    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(measured, about.mask, scan)
    text = ReportText(
        f"Measurements: {outputs.stem(about.path)}", tuple(_origin(about)), tuple(dict.fromkeys(about.notes))
    )
    written = [
        (folder / "report.html", report_page(text, measured.figures, pictures)),
        (folder / "figures.csv", figure_table_csv(measured.figures)),
    ]
    for path, content in written:
        write_atomically(path, [content.encode("utf-8")])
    return [path for path, _ in written] + _write_surfaces(folder, measured)


def _pictures(measured: MeasuredCase, mask: Segmentation, scan: Volume | None) -> dict[str, bytes]:
    from mper.visualization.figure import segmentation_png
    from mper.visualization.wall_figure import draw_wall

    pictures = {}
    if scan is not None and scan.geometry.spacing_known:
        pictures["Mask on the scan"] = segmentation_png(scan, mask, None, 1, "", ())
    if measured.atrium is not None and measured.atrium.surface is not None:
        ratio = "iir" in measured.atrium.surface.scalars
        caption = "Wall, coloured by image intensity ratio" if ratio else "Surface"
        pictures[caption] = draw_wall(measured.atrium.surface)
    return pictures


def _write_surfaces(folder: Path, measured: MeasuredCase) -> list[Path]:
    if measured.atrium is None or measured.atrium.surface is None:
        return []
    from mper.io.surfaces import SURFACE_ENDINGS, write_surface

    surface = measured.atrium.surface
    body = surface.kept(surface.scalars["wall"] > 0)
    files = [folder / f"wall{ending}" for ending in SURFACE_ENDINGS]
    for file in files:
        write_surface(file, body)
    return files


def _origin(about: ReportedMask) -> list[str]:
    """Who made the mask and with what, its expected quality, and the scan."""
    from mper import __version__
    from mper.provenance import MANUAL, SEMIAUTOMATIC

    lines, mask = [], about.mask
    if about.patient is not None:
        image = about.patient.instances[0]
        told = (str(image.get(key) or "unknown") for key in ("PatientName", "PatientID", "PatientBirthDate"))
        lines.append("Patient: " + ", ".join(told))
    for made in dict.fromkeys(mask.provenance.values()):
        how = {MANUAL: "drawn manually", SEMIAUTOMATIC: "edited manually"}.get(made.type, "unedited")
        lines.append(f"Mask: {made.name}, {how}" if made.name else f"Mask: {how}")
        stored = _bundle_of(made.algorithm, made.version)
        if made.quality:
            lines.append(f"Expected quality: {made.quality}")
        elif stored is not None:
            lines += _quality(stored)
    if not mask.provenance:
        lines.append("Mask: the file does not say how it was made")
    lines.append(
        f"Grid: {mask.labelmap.geometry.describe()}" + ("" if about.scan is None else f"; scan: {about.scan.name}")
    )
    lines.append(f"Measured with MPER {__version__}" + (f", by {about.creator}" if about.creator else ""))
    return lines


def _bundle_of(algorithm: str, version: str) -> StoredBundle | None:
    from mper.models.card import read_bundle
    from mper.resources import bundled_models

    bundles = map(read_bundle, bundled_models()) if algorithm.startswith("MPER ") else ()
    return next(
        (each for each in bundles if (f"MPER {each.card.name}", each.card.version) == (algorithm, version)), None
    )


def _quality(stored: StoredBundle) -> list[str]:
    quality = stored.card.about.get("quality")
    if not isinstance(quality, dict):  # a text: not measured
        return []
    dice = (quality.get("mean") or {}).get("dice")
    if dice is None:
        return []
    cases = quality.get("cases", "its test cases")
    return [f"Model: mean Dice {dice:.3f} on {cases}; what to expect of this mask is not known"]
