"""``mper measure``: figures of masks, as a table, JSON, a report, CSV, DICOM structured report and surfaces."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.console import print_error, print_json, print_note, print_result, print_table
from mper.cli.dicom import phase_number, tell_notes
from mper.cli.measure_report import ReportedMask, write_report
from mper.cli.options import Commands, add_command, add_json, add_phase, add_spacing, count, names, within
from mper.progress import Cancelled
from mper.utils.coded import Coded, with_codes
from mper.utils.errors import FAILED, OK, UsageError, explain
from mper.utils.text import short_number

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.labels import Label, Segmentation
    from mper.measurement.case import CaseSettings, MeasuredCase
    from mper.measurement.figures import Figure
    from mper.progress import Notify
    from mper.volume import Volume

_TEXT = """\
Measure masks. Every figure is given with its method and parameters; methods that differ are listed side by side.

Left atrium (LA): volume, index by body surface area, wall area, sphericity; with --scan, an LGE-MRI, the enhancement
of its wall: image intensity ratio (0.97, 1.20, 1.32, 1.61), blood pool mean + 2, 3, 3.3, 4 SD, and Otsu, each as area
and share of the wall. --clip removes what planes and spheres cut off (mitral valve, veins, appendage).
Ventricles (LV, RV, MYO): with --phases the masks are the phases of one heart, in order: EDV, ESV, SV, EF, mass.

MASK is a .seg.nrrd, a DICOM segmentation (with its series as --scan), or a plain mask (.nrrd, .nii.gz, .mha), whose
values --labels or --model names. Several masks without --phases are a cohort: a case each, their scans in the folder
--scan under the same names; one mask and a folder of scans are a cohort, too. --report writes a page (HTML), figures
(CSV) and surfaces; it names the files, and the patient only with --patient.
"""
_EXAMPLES = """\
  mper measure mask.seg.nrrd --scan lge.nrrd --height-cm 178 --weight-kg 82 --report report
  mper measure mask.seg.nrrd --scan lge.nrrd --clip clips.json --json
  mper measure seg.dcm --scan dicom-folder --sr report.dcm
  mper measure cine-phase*.nii.gz --phases --labels RV,MYO,LV
  mper measure ed.nii.gz es.nii.gz --phases --ed 1 --es 2 --model acdc --height-cm 165 --weight-kg 70
  mper measure "masks/*.seg.nrrd" --scan scans --report cohort
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "measure", "measure masks", _TEXT, _EXAMPLES)
    command.add_argument("masks", nargs="+", type=Path, metavar="MASK", help="the mask, or several")
    command.add_argument(
        "--scan", type=Path, metavar="SCAN", help="the LGE-MRI of the left atrium; of a cohort the folder of the scans"
    )
    command.add_argument("--series", metavar="UID", help="which DICOM series, where the folder holds several")
    add_phase(command, every=False)
    what = command.add_argument_group("what the masks are")
    what.add_argument("--labels", type=names, metavar="RV,MYO,LV", help="what the values 1, 2, ... of plain masks are")
    what.add_argument("--model", metavar="NAME|PATH", help="the model that drew plain masks, which names their values")
    what.add_argument("--phases", action="store_true", help="the masks are phases of one heart, in the order of time")
    what.add_argument(
        "--ed",
        type=count,
        metavar="N",
        help="which phase is end diastole, counted from 1 (default: that of the largest left ventricle)",
    )
    what.add_argument(
        "--es",
        type=count,
        metavar="N",
        help="which phase is end systole, counted from 1 (default: that of the smallest left ventricle)",
    )
    add_spacing(what)
    how = command.add_argument_group("how to measure")
    how.add_argument(
        "--height-cm", type=within(30, 250), metavar="H", help="of the patient (default: of the DICOM header)"
    )
    how.add_argument(
        "--weight-kg", type=within(1, 400), metavar="W", help="of the patient (default: of the DICOM header)"
    )
    how.add_argument("--clip", type=Path, metavar="FILE", help="planes and spheres to clip at (JSON)")
    how.add_argument(
        "--wall-mm",
        type=within(0.5, 10),
        metavar="MM",
        default=3.0,
        help="thickness of the wall outside the cavity, 0.5 to 10 (default: 3)",
    )
    how.add_argument(
        "--no-wall", action="store_true", help="the scan is no LGE-MRI: do not measure the enhancement of the wall"
    )
    how.add_argument(
        "--pool-mm",
        type=within(0, 20),
        metavar="MM",
        default=2.0,
        help="erosion of the cavity to the blood pool, 0 to 20 (default: 2)",
    )
    how.add_argument(
        "--sampling", choices=("max", "mean"), default="max", help="of the wall along its normals (default: max)"
    )
    how.add_argument(
        "--probability",
        type=Path,
        metavar="FILE",
        help="of `mper segment --probabilities`: adds the range of each figure over masks at probability 0.3 and 0.7",
    )
    result = command.add_argument_group("results")
    result.add_argument("--report", type=Path, metavar="FOLDER", help="write a page, CSV and surfaces into this folder")
    result.add_argument("--sr", type=Path, metavar="FILE", help="write a DICOM structured report (.dcm) of a DICOM-SEG")
    result.add_argument("--creator", metavar="NAME", default="", help="who answers for the report, as Family^Given")
    result.add_argument(
        "--patient", action="store_true", help="the page names the patient (DICOM name, ID, birth date)"
    )
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        answer = _measure(arguments)
    if arguments.json:
        print_json(with_codes(answer))
    return FAILED if answer.get("failed") else OK


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from mper.io.scans import expand_inputs

    masks = expand_inputs(arguments.masks)
    if arguments.report is not None:
        if arguments.report.is_file():
            raise UsageError(f"{arguments.report} is a file; name a folder for the report")
        arguments.report.mkdir(parents=True, exist_ok=True)
        outputs.check_writable(arguments.report)
    if isinstance(arguments.spacing, tuple) and any(_is_seg(path) for path in masks):
        raise UsageError(
            "--spacing K,J,I changes the grid, and a DICOM segmentation has that of its series; measure a plain mask, "
            "or correct the series"
        )
    if arguments.phases and len(masks) < 2:
        raise UsageError(f"--phases needs the masks of at least two phases, got {len(masks)}")
    alone = len(masks) == 1 and not _is_folder_of_scans(arguments.scan)
    if arguments.phases or alone:
        if (arguments.ed or arguments.es) and not arguments.phases:
            raise UsageError("--ed and --es go with --phases and the masks of several phases")
        return _Case(masks, arguments.scan, arguments, arguments.report).result(show=not arguments.json)
    if arguments.sr or arguments.clip or arguments.probability:
        if len(masks) == 1:
            raise UsageError(
                f"--sr, --clip and --probability go with one case, and {arguments.scan} is a folder of scans; "
                "give the scan of the mask with --scan"
            )
        raise UsageError(
            f"--sr, --clip and --probability go with one case, and {len(masks)} masks are given; "
            "measure each by itself, or add --phases where they are phases of one heart"
        )
    return _cohort(masks, arguments)


def _is_folder_of_scans(path: Path | None) -> bool:
    """Whether it is a folder of files that are scans, not of a DICOM series."""
    from mper.io.scans import holds_dicom, is_scan_file

    return path is not None and path.is_dir() and not holds_dicom(path) and any(map(is_scan_file, path.iterdir()))


class _Case:
    """One case from its files to its results."""

    def __init__(self, masks: Sequence[Path], scan: Path | None, arguments: argparse.Namespace, report: Path | None):
        self._masks, self._scan, self._arguments, self._report = masks, scan, arguments, report
        self._notes: list[str] = []
        self.measured: MeasuredCase | None = None

    def result(self, show: bool) -> dict[str, Any]:
        """Measure and write what is asked for; the answer is for JSON."""
        begin = time.perf_counter()
        arguments = self._arguments
        if arguments.sr is not None:
            _check_sr(arguments.sr, self._masks)
        scan, series = self._read_scan()
        phases = [self._read_mask(path, series) for path in self._masks]
        if scan is not None:
            phases = [_on_grid(phase, scan) for phase in phases]
        from mper.measurement.case import measure_case

        probability = self._probability(phases[0])
        enhanced = None if arguments.no_wall else scan
        measured = measure_case(phases, enhanced, self._settings(series), probability)
        self.measured = measured
        self._notes += measured.notes
        files = []
        if self._report is not None:
            patient = series if arguments.patient else None
            about = ReportedMask(self._masks[0], self._scan, phases[0], patient, arguments.creator, self._notes)
            files = write_report(self._report, about, measured, scan)
        if arguments.sr is not None:
            from mper.dicom.sr_write import write_sr

            assert series is not None
            write_sr(
                arguments.sr,
                measured.figures,
                self._masks[0],
                phases[0],
                series,
                self._notes.append,
                arguments.creator,
                tuple(self._notes),
            )
            files.append(arguments.sr)
        tell_notes(self._notes)
        if show:
            _show(measured.figures)
            for file in files:
                print_result(str(file))
        cycle = measured.cycle
        answer: dict[str, Any] = {
            "masks": [str(path) for path in self._masks],
            "scan": None if self._scan is None else str(self._scan),
            "figures": [figure.to_dict() for figure in measured.figures],
            "notes": [*dict.fromkeys(self._notes)],
            "files": [str(file) for file in files],
            "seconds": round(time.perf_counter() - begin, 3),
        }
        if cycle is not None:
            answer["volumes_ml"] = {name: [round(ml, 3) for ml in curve] for name, curve in cycle.curves_ml.items()}
            answer["ed"], answer["es"] = cycle.end_diastole, cycle.end_systole
        return answer

    def _read_scan(self) -> tuple[Volume | None, DicomSeries | None]:
        from mper.io import with_spacing
        from mper.io.opened import open_scan

        if self._scan is None:
            return None, None
        arguments = self._arguments
        opened = open_scan(self._scan, arguments.series, self._notes.append, arguments.image_type)
        number = phase_number(opened.phases, arguments.phase)
        if opened.series is not None:
            series = opened.series.read(number)
            return with_spacing(series.volume, arguments.spacing, self._notes.append), series
        return with_spacing(opened.read(number), arguments.spacing, self._notes.append), None

    def _read_mask(self, path: Path, series: DicomSeries | None) -> Segmentation:
        from mper.io import with_spacing

        mask = read_mask(path, series, self._arguments.labels, self._arguments.model, self._notes.append)
        return replace(mask, labelmap=with_spacing(mask.labelmap, self._arguments.spacing))

    def _probability(self, mask: Segmentation) -> Volume | None:
        from mper.io import read_volume

        if self._arguments.probability is None:
            return None
        found = read_volume(self._arguments.probability, notify=self._notes.append)
        if self._arguments.spacing and found.geometry.shape == mask.labelmap.geometry.shape:
            return mask.labelmap.with_array(found.array)
        return found

    def _settings(self, series: DicomSeries | None) -> CaseSettings:
        from mper.measurement.case import CaseSettings
        from mper.measurement.clipping import read_clips
        from mper.measurement.wall import WallSettings

        arguments = self._arguments
        return CaseSettings(
            clips=read_clips(arguments.clip) if arguments.clip else (),
            body_m2=_body(arguments, series, self._notes.append),
            wall=WallSettings(arguments.wall_mm, arguments.pool_mm, arguments.sampling),
            end_diastole=arguments.ed,
            end_systole=arguments.es,
        )


def read_mask(
    path: Path, series: DicomSeries | None, labels: Sequence[str] | None, model: str | None, notify: Notify
) -> Segmentation:
    """A mask with the names of its structures, from any file that holds one.

    Raises
    ------
    UsageError
        If nothing names its structures, or a DICOM segmentation comes without its series.
    """
    from mper.io import read_labelmap, read_segmentation
    from mper.io.labelmap import binary_as_label
    from mper.labels import Segmentation, make_label

    if _is_seg(path):
        if series is None:
            raise UsageError(f"{path} is a DICOM segmentation; give the folder of its series with --scan")
        from mper.dicom.seg_read import read_seg

        return read_seg(path, series, notify)
    if path.name.lower().endswith(".seg.nrrd"):
        return read_segmentation(path, notify)
    labelmap = read_labelmap(path, notify)
    made: tuple[Label, ...]
    if labels:
        made = tuple(make_label(value, each) for value, each in enumerate(labels, 1))
    elif model is not None:
        from mper.models.card import read_bundle
        from mper.resources import find_model

        made = read_bundle(find_model(model)).card.labels
    else:
        raise UsageError(
            f"{path} is a plain mask without names; say what its values are with --labels LA, "
            "or which model drew it with --model la"
        )
    return Segmentation(binary_as_label(labelmap, made, str(path), notify), made)


def _is_seg(path: Path) -> bool:
    """Whether it is named as a DICOM segmentation."""
    return path.name.lower().endswith(outputs.SEG_ENDING)


def _on_grid(mask: Segmentation, scan: Volume) -> Segmentation:
    """The mask on the scan's grid, where it is a part of that (cropped or flipped by another program)."""
    from mper.dicom.grid_match import onto_grid

    if not (mask.labelmap.geometry.spacing_known and scan.geometry.spacing_known):
        return mask  # refused where it is measured
    return replace(mask, labelmap=scan.with_array(onto_grid(mask.labelmap, scan.geometry)))


def _body(arguments: argparse.Namespace, series: DicomSeries | None, notify: Notify) -> float | None:
    """Body surface area from the arguments, else from the DICOM header; None with a note where it is unknown."""
    from mper.measurement.figures import body_surface_m2

    height, weight = arguments.height_cm, arguments.weight_kg
    if height is not None and weight is not None:
        return body_surface_m2(height, weight)
    stored = stored_body(series)
    height = stored[0] if height is None else height
    weight = stored[1] if weight is None else weight
    if height is None or weight is None:
        missing = [option for option, number in (("--height-cm", height), ("--weight-kg", weight)) if number is None]
        notify(Coded(f"no indices by body surface area: give {' and '.join(missing)}", "no-body"))
        return None
    try:
        body = body_surface_m2(height, weight)
    except ValueError as error:
        notify(f"no indices by body surface area: in the DICOM header {error}")
        return None
    notify(f"height {height:g} cm and weight {weight:g} kg are those of the DICOM header, where they were not given")
    return body


def stored_body(series: DicomSeries | None) -> tuple[float | None, float | None]:
    """Height in cm and weight in kg of a DICOM header (PatientSize is in m)."""
    found: list[float | None] = []
    for keyword, factor in (("PatientSize", 100.0), ("PatientWeight", 1.0)):
        try:
            value = float(str(series.instances[0].get(keyword))) * factor if series is not None else 0.0
        except ValueError:
            value = 0.0
        found.append(round(value, 2) if value > 0 else None)
    return found[0], found[1]


def _check_sr(path: Path, masks: Sequence[Path]) -> None:
    if len(masks) != 1 or not _is_seg(masks[0]):
        raise UsageError(
            "--sr refers to a DICOM segmentation, and MASK is none; write one first with mper export-seg, "
            "or both at once with mper segment SERIES seg.dcm --sr report.dcm"
        )
    check_report(path)


def check_report(path: Path) -> None:
    """Raise UsageError where `path` cannot be the name of a report, or is a file but no older report."""
    if path.suffix.lower() != ".dcm":
        raise UsageError(f"cannot write {path}: the name of a DICOM report must end in .dcm")
    if not path.is_file():
        outputs.check_writable(path.parent)
        return
    from mper.dicom.sr_write import read_sr

    try:
        read_sr(path)
    except ValueError:
        raise UsageError(f"{path} exists and is no report, so it is not replaced; choose another name") from None


def _cohort(masks: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    from mper.visualization.report import figures_csv, summary_page

    names = outputs.mirrored_names(masks)
    scans = _scans_of(dict(zip(masks, names, strict=True)), arguments.scan)
    cases: list[dict[str, Any]] = []
    rows: list[tuple[str, Sequence[Figure]]] = []
    failed: dict[str, str] = {}
    for path, name in zip(masks, names, strict=True):
        folder = None if arguments.report is None else arguments.report / name
        try:
            case = _Case([path], scans.get(path), arguments, folder)
            cases.append({"case": name, **case.result(show=False)})
            assert case.measured is not None
            rows.append((name, case.measured.figures))
            if not arguments.json:
                first = case.measured.figures[0]
                print_result(f"{name}: {first.name} {first.text()}, {len(case.measured.figures)} figures")
        except Cancelled:
            raise
        except Exception as error:  # one bad case must not stop the others; what it was is in the list
            failed[name] = explain(error)
            cases.append({"case": name, "masks": [str(path)], "error": failed[name]})
            print_error(f"{path}: {failed[name]}")
    files = []
    if arguments.report is not None and rows:
        from mper.utils.files import write_atomically

        for file, content in (
            (arguments.report / "figures.csv", figures_csv(rows)),
            (arguments.report / "summary.html", summary_page(f"Measurements of {len(rows)} cases", rows, failed)),
        ):
            write_atomically(file, [content.encode("utf-8")])
            files.append(file)
    if not arguments.json:
        for file in files:
            print_result(str(file))
        print_result(f"{len(rows)} of {len(masks)} cases measured")
    return {"cases": cases, "failed": len(failed), "files": [str(file) for file in files]}


def _scans_of(masks: Mapping[Path, str], folder: Path | None) -> dict[Path, Path]:
    """The scan of each mask, which is given with its unique name.

    The one that has the same name in the folder, with its folders in it; else the only one of the same file name, for
    the only mask of that.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"{len(masks)} masks are given, so --scan is the folder of their scans; {folder} is no folder")
    from mper.io import find_scans, is_scan_file

    there = [path for path in sorted(folder.rglob("*")) if is_scan_file(path)]
    try:
        there = list(dict.fromkeys([*there, *find_scans([folder], print_note)]))
    except FileNotFoundError:
        if not there:
            raise
    by_name = dict(zip(outputs.mirrored_names(there), there, strict=True))
    by_stem, masks_of = _by_stem(there), _by_stem(masks)
    found: dict[Path, Path] = {}
    for path, name in masks.items():
        alike = by_stem.get(outputs.stem(path), [])
        if name in by_name:
            found[path] = by_name[name]
        elif len(alike) == len(masks_of[outputs.stem(path)]) == 1:
            found[path] = alike[0]
    missing = [path.name for path in masks if path not in found]
    if missing:
        print_note(f"{len(missing)} masks have no scan of the same name in {folder}, and no wall figures: {missing[0]}")
    return found


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their names without endings and folders."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(outputs.stem(path), []).append(path)
    return found


def _show(figures: Sequence[Figure]) -> None:
    ranged = any(figure.range for figure in figures)
    for group in dict.fromkeys(figure.group for figure in figures):
        rows = []
        for figure in (each for each in figures if each.group == group):
            row = [figure.name, figure.text()]
            if ranged:
                row.append("" if figure.range is None else " to ".join(map(short_number, figure.range)))
            stages = "; ".join(f"{scheme}: stage {stage}" for scheme, stage in (figure.stages or {}).items())
            rows.append([*row, stages])
        print_result()
        print_table([group, "value", *(["range"] if ranged else []), "stage"], rows)
    print_result()
    for method in dict.fromkeys(f"{figure.name.removesuffix(', area')}: {figure.method}" for figure in figures):
        if ", extent: " not in method:  # as that of the area
            print_result(method)
    print_result()
