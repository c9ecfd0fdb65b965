"""``mper segment``: scans in, masks out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.common import about, box, check_single, load_predictor, read_scan, rounded, volumes, write_mask
from mper.cli.console import Bar, duration, print_error, print_json, print_note, print_result
from mper.cli.options import Commands, add_command, add_device, add_json, add_model, add_region, add_tta
from mper.cli.outputs import Job
from mper.progress import Cancelled, Progress, part_of
from mper.utils.errors import FAILED, OK, UsageError, explain

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.inference.prediction import Prediction
    from mper.models.card import StoredBundle

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
    add_region(command)
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
    add_tta(command)
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    jobs, cohort = _plan(arguments)
    from mper.models.card import read_bundle
    from mper.resources import find_model

    stored = read_bundle(find_model(arguments.model))  # a wrong name is told before torch is loaded
    if arguments.json:
        with contextlib.redirect_stdout(sys.stderr):
            answer = (_run_cohort if cohort else _run_single)(jobs, stored, arguments)
        print_json(answer)
    else:
        answer = (_run_cohort if cohort else _run_single)(jobs, stored, arguments)
    return FAILED if answer.get("failed") else OK


def _plan(arguments: argparse.Namespace) -> tuple[list[Job], bool]:
    """The jobs, and whether they are a cohort."""
    from mper.io import find_scans

    if len(arguments.paths) < 2:
        raise UsageError(
            "where should the result go? give the scan and then the output, "
            f"as in: mper segment {arguments.paths[0]} mask.seg.nrrd"
        )
    *inputs, output = (Path(path).expanduser() for path in arguments.paths)
    extras = (arguments.prototypes, arguments.probabilities)
    scans = find_scans(inputs)
    if len(inputs) == 1 and scans == inputs:
        job = outputs.single_job(scans[0], output, *extras)
        check_single(job, arguments.series)
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


def _run_single(jobs: Sequence[Job], stored: StoredBundle, arguments: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    with Bar(shown=not arguments.json) as bar:
        bar(Progress("reading", 0.0))
        # First: a bad scan is told before torch is loaded.
        scan, series, notes = read_scan(jobs[0], arguments.series)
        bar(Progress("loading the model", 0.0))
        predictor = load_predictor(stored, arguments.device)
        prediction = predictor.predict(scan, roi=arguments.roi, tta=arguments.tta, want=_wanted(jobs[0]), report=bar)
        found = {
            **_write(jobs[0], prediction, series, notes, predictor.bundle.network.prototypes),
            "seconds": round(time.perf_counter() - begin, 3),
        }
    for note in found["notes"]:
        print_note(note)
    if not arguments.json:
        print_result(f"{jobs[0].mask}: {_summary(found)}")
    return {**about(stored, predictor), **found}


def _run_cohort(jobs: Sequence[Job], stored: StoredBundle, arguments: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    predictor = load_predictor(stored, arguments.device)
    cases: list[dict[str, Any]] = []
    with Bar(shown=not arguments.json) as bar:
        for position, job in enumerate(jobs):
            report = part_of(bar, position / len(jobs), 1 / len(jobs), f"scan {position + 1} of {len(jobs)}")
            report(Progress("reading", 0.0))
            started = time.perf_counter()
            try:
                scan, series, notes = read_scan(job, None)
                prediction = predictor.predict(
                    scan, roi=arguments.roi, tta=arguments.tta, want=_wanted(job), report=report
                )
                job.make_folders()
                found = _write(job, prediction, series, notes, predictor.bundle.network.prototypes)
            except Cancelled:
                raise
            except Exception as error:  # one bad scan must not stop a night's work; what it was is in the list
                cases.append({"input": str(job.scan), "error": explain(error)})
                print_error(f"{job.scan}: {cases[-1]['error']}")
                continue
            cases.append({**found, "seconds": round(time.perf_counter() - started, 3)})
            for note in found["notes"]:
                print_note(f"{job.scan}: {note}")
            if not arguments.json:
                bar.print_result(f"{job.mask}: {_summary(cases[-1])}")
    failed = [case["input"] for case in cases if "error" in case]
    seconds = time.perf_counter() - begin
    if not arguments.json:
        print_result(f"{len(cases) - len(failed)} of {len(cases)} scans segmented in {duration(seconds)}")
        _print_flagged(cases)
    if failed:
        print_error(f"{len(failed)} of {len(cases)} scans failed: {', '.join(failed)}")
    return {**about(stored, predictor), "cases": cases, "failed": len(failed), "seconds": round(seconds, 3)}


def _print_flagged(cases: Sequence[Mapping[str, Any]]) -> None:
    """The masks of a cohort that a person should check, and why."""
    flagged = [case for case in cases if case.get("flags")]
    if not flagged:
        return
    print_result(f"{len(flagged)} of {len(cases)} masks to check:")
    for case in flagged:
        print_result(f"  {case['mask']}: {'; '.join(flag['words'] for flag in case['flags'])}")


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
    written, checked = write_mask(job.mask, mask, series)
    notes = [*notes, *written]
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
        "volumes_ml": rounded(mask.volumes_ml()),
        "confidence": round(float(prediction.confidence), 4),
        "roi_mm": box(prediction),
        "empty": not mask.labelmap.array.any(),
        "flags": [asdict(flag) for flag in prediction.flags],
        "notes": [*notes, *prediction.notes],
        **checked,
    }


def _summary(found: dict[str, Any]) -> str:
    """``LA 85.3 mL, confidence 0.93, 1.2 s``."""
    checked = ["export check passed"] if "check" in found else []  # a file that fails it is not kept
    empty = ["EMPTY MASK"] if found["empty"] else []
    return ", ".join(
        [*empty, *volumes(found), f"confidence {found['confidence']:.2f}", *checked, duration(found["seconds"])]
    )
