"""``mper segment``: scans in, masks out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.console import Bar, duration, say, say_json, tell
from mper.cli.dicom import exported, not_dicom
from mper.cli.edge import FAILED, OK, UsageError, explain
from mper.cli.options import Commands, add_command, add_device, add_model, roi
from mper.cli.outputs import Job
from mper.progress import Cancelled, Progress, part_of

if TYPE_CHECKING:
    from mper.card import StoredBundle
    from mper.dicom import DicomSeries
    from mper.prediction import Prediction
    from mper.predictor import Predictor
    from mper.volume import Volume

_TEXT = """\
Segment scans, by default the left atrium in LGE-MRI.

One scan is a file (.nrrd, .nii.gz, .mha, .h5 ...) or a folder that holds one DICOM series; OUTPUT is then a file, and
its ending decides the format: .seg.nrrd (3D Slicer, with names, colours and codes), .nrrd, .nii.gz, .mha, or .dcm: a
DICOM segmentation of the series, read back and compared before it is kept (see `mper export-seg --help`).
Several scans, a pattern with * or a folder of scans are a cohort: OUTPUT is then a folder, which gets one .seg.nrrd a
scan under the scan's name. A scan that cannot be segmented is reported at the end and the rest goes on.
The mask always lies on the scan's own grid. An older mask at OUTPUT is replaced; a scan never is.
"""
_EXAMPLES = """\
  mper segment scan.nrrd mask.seg.nrrd
  mper segment dicom-folder mask.seg.nrrd --prototypes why.seg.nrrd
  mper segment dicom-folder seg.dcm
  mper segment "study/*/lge.nii.gz" results
  mper segment scan.nrrd mask.nii.gz --roi=-40,60,-30,70,-20,50 --json
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "segment", "segment scans", _TEXT, _EXAMPLES)
    command.usage = "mper segment INPUT... OUTPUT [options]"
    command.add_argument(
        "paths", nargs="+", metavar="INPUT... OUTPUT", help="the scan or scans, then where the result goes"
    )
    add_model(command, default="la")
    add_device(command)
    command.add_argument(
        "--roi",
        type=roi,
        metavar="x0,x1,y0,y1,z0,z1",
        help="look only inside this box, in mm (LPS: x to the patient's left, y to the back, z to the head); "
        "write it with an equals sign: --roi=-40,60,-30,70,-20,50",
    )
    command.add_argument("--series", metavar="UID", help="which DICOM series, where the folder holds several")
    command.add_argument(
        "--prototypes",
        type=Path,
        metavar="FILE",
        help="also write the prototype map: which learnt pattern of its class each voxel resembles most "
        "(1 + class * prototypes a class + prototype, 0 = not computed; a folder for a cohort)",
    )
    command.add_argument(
        "--probabilities",
        type=Path,
        metavar="FILE",
        help="also write the probability of each structure, 0 to 1; with several structures one file each, "
        "with its name added (a folder for a cohort)",
    )
    command.add_argument(
        "--tta", action="store_true", help="also look at mirrored copies and average: slower, a little better"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    jobs, cohort = _plan(arguments)
    from mper.card import read_bundle
    from mper.resources import find_model

    stored = read_bundle(find_model(arguments.model))  # a wrong name is told before torch is loaded
    if arguments.json:
        with contextlib.redirect_stdout(sys.stderr):
            answer = (_run_cohort if cohort else _run_single)(jobs, stored, arguments)
        say_json(answer)
    else:
        answer = (_run_cohort if cohort else _run_single)(jobs, stored, arguments)
    return FAILED if answer.get("failed") else OK


def _plan(arguments: argparse.Namespace) -> tuple[list[Job], bool]:
    """The jobs, and whether they are a cohort."""
    from mper.io import SCAN_SUFFIXES, find_scans

    if len(arguments.paths) < 2:
        raise UsageError(
            "where should the result go? give the scan and then the output, "
            f"as in: mper segment {arguments.paths[0]} mask.seg.nrrd"
        )
    *inputs, output = (Path(path).expanduser() for path in arguments.paths)
    extras = (arguments.prototypes, arguments.probabilities)
    scans = find_scans(inputs)
    if len(inputs) == 1 and scans == inputs:
        if arguments.series and scans[0].name.lower().endswith(SCAN_SUFFIXES):
            raise UsageError(f"--series goes with a DICOM folder; {scans[0]} is a single volume")
        job = outputs.single_job(scans[0], output, *extras)
        if _is_seg(job) and scans[0].is_file() and scans[0].name.lower().endswith(SCAN_SUFFIXES):
            raise not_dicom(scans[0])
        outputs.check_replaceable(job.mask)
        for path in (job.mask, job.prototypes, job.probabilities):
            if path is not None:
                outputs.check_writable(path.parent)
        return [job], False
    if arguments.series:
        raise UsageError("--series goes with a single DICOM folder; here there are several inputs")
    if output.is_dir():  # results of an earlier run, below a folder that is segmented again, are no scans
        scans = [scan for scan in scans if output.resolve() not in scan.resolve().parents] or scans
    jobs = outputs.cohort_jobs(scans, output, *extras)
    for folder in (output, *extras):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            outputs.check_writable(folder)
    return jobs, True


def _predictor(stored: StoredBundle, device: str) -> Predictor:
    from mper.bundle import ModelBundle
    from mper.predictor import Predictor

    return Predictor(ModelBundle.load(stored.path), device)


def _run_single(jobs: Sequence[Job], stored: StoredBundle, arguments: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    with Bar(shown=not arguments.json) as bar:
        bar(Progress("reading", 0.0))
        # First: a bad scan is told before torch is loaded.
        scan, series, notes = _read(jobs[0], arguments.series)
        bar(Progress("loading the model", 0.0))
        predictor = _predictor(stored, arguments.device)
        prediction = predictor.predict(scan, roi=arguments.roi, tta=arguments.tta, want=_wanted(jobs[0]), report=bar)
        found = {
            **_write(jobs[0], _told(prediction, stored), series, notes, predictor.bundle.network.prototypes),
            "seconds": round(time.perf_counter() - begin, 3),
        }
    for note in found["notes"]:
        tell(f"mper: note: {note}")
    if not arguments.json:
        say(f"{jobs[0].mask}: {_summary(found)}")
    return {**_about(stored, predictor), **found}


def _run_cohort(jobs: Sequence[Job], stored: StoredBundle, arguments: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    predictor = _predictor(stored, arguments.device)
    cases: list[dict[str, Any]] = []
    with Bar(shown=not arguments.json) as bar:
        for position, job in enumerate(jobs):
            report = part_of(bar, position / len(jobs), 1 / len(jobs), f"scan {position + 1} of {len(jobs)}")
            report(Progress("reading", 0.0))
            started = time.perf_counter()
            try:
                scan, series, notes = _read(job, None)
                prediction = predictor.predict(
                    scan, roi=arguments.roi, tta=arguments.tta, want=_wanted(job), report=report
                )
                job.make_folders()
                found = _write(job, _told(prediction, stored), series, notes, predictor.bundle.network.prototypes)
            except Cancelled:
                raise
            except Exception as error:  # one bad scan must not stop a night's work; what it was is in the list
                cases.append({"input": str(job.scan), "error": explain(error)})
                tell(f"mper: error: {job.scan}: {cases[-1]['error']}")
                continue
            cases.append({**found, "seconds": round(time.perf_counter() - started, 3)})
            for note in found["notes"]:
                tell(f"mper: note: {job.scan}: {note}")
            if not arguments.json:
                bar.say(f"{job.mask}: {_summary(cases[-1])}")
    failed = [case["input"] for case in cases if "error" in case]
    seconds = time.perf_counter() - begin
    if not arguments.json:
        say(f"{len(cases) - len(failed)} of {len(cases)} scans segmented in {duration(seconds)}")
    if failed:
        tell(f"mper: error: {len(failed)} of {len(cases)} scans failed: {', '.join(failed)}")
    return {**_about(stored, predictor), "cases": cases, "failed": len(failed), "seconds": round(seconds, 3)}


def _is_seg(job: Job) -> bool:
    """Whether the result is a DICOM segmentation."""
    return job.mask.name.lower().endswith(outputs.SEG_ENDING)


def _read(job: Job, series_uid: str | None) -> tuple[Volume, DicomSeries | None, list[str]]:
    """A scan that can be segmented, its series where the result refers to it, and what was noticed meanwhile."""
    from mper.io import check_scan, read_volume

    notes: list[str] = []
    series = None
    if _is_seg(job):
        from mper.dicom import read_series

        series = read_series(job.scan, series_uid, notes.append)
    scan = series.volume if series else read_volume(job.scan, series_uid, notes.append)
    check_scan(scan)
    return scan, series, notes


def _told(prediction: Prediction, stored: StoredBundle) -> Prediction:
    """The prediction with a mask that tells which model drew it."""
    from mper.provenance import Provenance

    made = Provenance.of_model(stored.card.name, stored.card.version, stored.sha256)
    mask = prediction.segmentation
    return replace(prediction, segmentation=replace(mask, provenance={label.value: made for label in mask.labels}))


def _wanted(job: Job) -> set[str]:
    """What the predictor must compute beside the mask."""
    wanted = {"prototypes": job.prototypes, "probabilities": job.probabilities}
    return {name for name, path in wanted.items() if path is not None}


def _write(
    job: Job, prediction: Prediction, series: DicomSeries | None, notes: Sequence[str], per_class: int
) -> dict[str, Any]:
    """Write what was asked for, and tell of it."""
    import numpy as np

    from mper.io import write_segmentation, write_volume
    from mper.labels import Segmentation, prototype_labels

    mask = prediction.segmentation
    checked: dict[str, Any] = {}
    if series is not None:
        from mper.dicom.seg_write import write_seg

        report = write_seg(job.mask, mask, series)
        notes = [*notes, *report.notes]
        checked = exported(job.mask, report)
    else:
        write_segmentation(job.mask, mask)
    prototypes = probabilities = None
    if job.prototypes is not None and prediction.prototype_map is None:
        notes = [*notes, "the model has no prototypes, so no prototype map was written"]
    elif job.prototypes is not None and prediction.prototype_map is not None:
        write_segmentation(
            job.prototypes, Segmentation(prediction.prototype_map, prototype_labels(mask.labels, per_class))
        )
        prototypes = str(job.prototypes)
    if job.probabilities is not None and prediction.probabilities is not None:
        files = outputs.probability_files(job.probabilities, [label.name for label in mask.labels])
        for path, probability in zip(files, prediction.probabilities[1:], strict=True):
            write_volume(path, mask.labelmap.with_array(probability.astype(np.float32)))
        probabilities = [str(path) for path in files]
    return {
        "input": str(job.scan),
        "mask": str(job.mask),
        "prototypes": prototypes,
        "probabilities": probabilities,
        "volumes_ml": {name: None if ml is None else round(ml, 3) for name, ml in mask.volumes_ml().items()},
        "confidence": round(float(prediction.confidence), 4),
        "roi_mm": None if prediction.roi_mm is None else [round(x, 3) for x in prediction.roi_mm],
        "notes": [*notes, *prediction.notes],
        **checked,
    }


def _about(stored: StoredBundle, predictor: Predictor) -> dict[str, Any]:
    card = stored.card
    model = {"name": card.name, "version": card.version, "sha256": stored.sha256}
    return {"model": model, "device": str(predictor.device)}


def _summary(found: dict[str, Any]) -> str:
    """``LA 85.3 mL, confidence 0.93, 1.2 s``."""
    volumes = [
        f"{name} {'of unknown size' if ml is None else f'{ml:.1f} mL'}" for name, ml in found["volumes_ml"].items()
    ]
    checked = ["export check passed"] if "check" in found else []  # a file that fails it is not kept
    return ", ".join([*volumes, f"confidence {found['confidence']:.2f}", *checked, duration(found["seconds"])])
