"""``mper segment``: scans in, masks out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.cluster import add_cluster, cluster_settings
from mper.cli.cohort import Picture, run_cohort, run_share
from mper.cli.cohort_output import summary
from mper.cli.common import (
    is_seg,
    load_predictor,
    model_entry,
    open_task,
    quality_entry,
    read_phase,
    roi_entry,
    rounded_volumes,
    write_mask,
)
from mper.cli.console import Bar, print_json, print_note
from mper.cli.heart_phase import check_ventricle, find_phase
from mper.cli.inputs import plan, unlabelled_tasks
from mper.cli.measure import check_report
from mper.cli.options import (
    Commands,
    add_command,
    add_device,
    add_json,
    add_model,
    add_phase,
    add_region,
    add_spacing,
    add_tta,
    count,
    share,
)
from mper.cli.outputs import SegmentationTask
from mper.phases import ALL
from mper.progress import Notify, Progress, Report, part_of
from mper.utils.errors import CANCELLED, FAILED, OK, UsageError
from mper.utils.processes import lower_priority, reserve_one_core, watch_parent

if TYPE_CHECKING:
    from mper.dicom.series import DicomSeries
    from mper.inference.prediction import Prediction
    from mper.inference.predictor import Predictor
    from mper.models.card import StoredBundle

_TEXT = """\
Segment scans, by default the left atrium in LGE-MRI.

One scan is a file (.nrrd, .nii.gz, .mha, .h5 ...), or a folder that holds one DICOM series or a study with one scan;
OUTPUT is then a file, and its ending decides the format: .seg.nrrd (3D Slicer, with names, colours and codes), .nrrd,
.nii.gz, .mha, or .dcm: a DICOM segmentation of the series, read back and compared before it is kept (see
`mper export-seg --help`). In a study localisers, reports and damaged files of other series are left out with a note;
of several scans --series chooses one, of a time series --phase.
Several scans, a pattern with * or a folder of scans are a cohort: OUTPUT is then a folder, which gets one .seg.nrrd a
scan under the scan's name, cohort.csv, a page summary.html, and manifest.json: scans with checksums, model, options,
software, times and results. A scan that cannot be segmented is reported at the end and the rest goes on. The same
command goes on where it stopped; it refuses a folder with the results of another model, of other options or scans.
The mask is always on the grid of the scan. A mask at OUTPUT is replaced; a scan never is.
"""
_EXAMPLES = """\
  mper segment scan.nrrd mask.seg.nrrd
  mper segment dicom-folder mask.seg.nrrd --prototypes why.seg.nrrd
  mper segment dicom-folder seg.dcm
  mper segment dicom-folder seg.dcm --sr report.dcm
  mper segment study seg.dcm --series 1.2.840.113619.2.5
  mper segment cine-folder mask.nii.gz --model acdc --phase ED
  mper segment "study/*/lge.nii.gz" results
  mper segment scans results --workers 4
  mper segment dataset results --unlabelled
  mper segment scans results --cluster slurm --partition gpu --gpus 1 --time 2h
  mper segment scan.nrrd mask.nii.gz --roi=-40,60,-30,70,-20,50 --json
  mper segment scan.nrrd mask.nii.gz --at=-12.5,40,85
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "segment", "segment scans", _TEXT, _EXAMPLES)
    command.usage = "mper segment INPUT... OUTPUT [options]"
    command.add_argument(
        "paths", nargs="*", metavar="INPUT... OUTPUT", help="the scan or scans, then where the result goes"
    )
    add_model(command, default="la")
    add_device(command)
    add_region(command)
    add_phase(command, every=True)
    command.add_argument(
        "--prototypes",
        type=Path,
        metavar="FILE",
        help="also write the prototype map: the learnt pattern of its class that each voxel resembles most "
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
        "--sr",
        type=Path,
        metavar="FILE",
        help="with a DICOM OUTPUT (.dcm), also measure the mask and write a DICOM structured report of it (see "
        "`mper measure`); `mper push` sends both",
    )
    add_spacing(command)
    add_tta(command)
    add_json(command)
    several = command.add_argument_group("cohorts")
    several.add_argument(
        "--workers", type=count, metavar="N", help="segment N scans at a time, each with its share of the cores"
    )
    several.add_argument(
        "--overwrite",
        action="store_true",
        help="segment all scans again, where OUTPUT holds the results of another run",
    )
    several.add_argument(
        "--unlabelled",
        action="store_true",
        help="INPUT is a dataset (see `mper import`): segment its cases that have no label and are not held out, those "
        "with a region in it alone",
    )
    several.add_argument("--background", action="store_true", help=argparse.SUPPRESS)  # for programs that show it
    several.add_argument("--plan", type=Path, help=argparse.SUPPRESS)  # for the processes that --workers starts
    several.add_argument("--share", type=share, help=argparse.SUPPRESS)
    several.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)  # end when stdin closes
    add_cluster(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.with_parent:  # at once: a parent that was killed has released the folder, which others may work on
        watch_parent(sys.stdin, lambda: os._exit(CANCELLED))
    if arguments.background:
        lower_priority()
        reserve_one_core()
    if arguments.plan is not None:
        return run_share(arguments, segment_task)
    notes: list[str] = []
    tasks, cohort = _plan(arguments, notes.append)
    if arguments.sr is not None:
        _check_report(arguments, tasks, cohort)
    if not cohort and cluster_settings(arguments) is not None:
        raise UsageError("--cluster divides a cohort into jobs, and this is one scan; leave it out")
    if not cohort and arguments.workers:
        notes.append("--workers is for several scans, and this is one: it is segmented with all cores")
    for note in notes:
        print_note(note)
    from mper.models.card import read_bundle
    from mper.resources import find_model

    stored = read_bundle(find_model(arguments.model))  # before torch is loaded, which takes seconds

    def work() -> dict[str, Any]:
        return run_cohort(tasks, stored, arguments, segment_task) if cohort else _run_single(tasks, stored, arguments)

    if arguments.json:
        with contextlib.redirect_stdout(sys.stderr):
            answer = work()
        print_json({**answer, "notes": notes} if cohort else answer)
    else:
        answer = work()
    return FAILED if answer.get("failed") else OK


def _plan(arguments: argparse.Namespace, notify: Notify) -> tuple[list[SegmentationTask], bool]:
    """The tasks, and whether they are a cohort."""
    if not arguments.paths:
        raise UsageError("there is no scan; give the scan and then the output, as in: mper segment scan.nrrd mask.nrrd")
    if len(arguments.paths) < 2:
        raise UsageError(
            "there is no output; give the scan and then the output, "
            f"as in: mper segment {arguments.paths[0]} mask.seg.nrrd"
        )
    *inputs, output = (Path(path).expanduser() for path in arguments.paths)
    if arguments.unlabelled:
        return unlabelled_tasks(inputs, output, (arguments.prototypes, arguments.probabilities)), True
    return plan(inputs, output, (arguments.prototypes, arguments.probabilities), arguments.series, notify)


def _check_report(arguments: argparse.Namespace, tasks: Sequence[SegmentationTask], cohort: bool) -> None:
    if cohort or arguments.phase == ALL or not is_seg(tasks[0]):
        raise UsageError("--sr refers to one DICOM-SEG: give one scan in DICOM and an OUTPUT that ends in .dcm")
    if arguments.sr.resolve() == tasks[0].mask.resolve():
        raise UsageError(f"the report and the segmentation would both be written to {arguments.sr}; choose two names")
    check_report(arguments.sr)


def _run_single(
    tasks: Sequence[SegmentationTask], stored: StoredBundle, arguments: argparse.Namespace
) -> dict[str, Any]:
    begin = time.perf_counter()
    predictor: list[Predictor] = []
    results: list[dict[str, Any]] = []
    with Bar(shown=not arguments.json) as bar:

        def load() -> Predictor:
            bar(Progress("loading the model", 0.0))
            predictor.append(load_predictor(stored, arguments.device))
            return predictor[0]

        bar(Progress("reading", 0.0))
        for result in segment_task(tasks[0], stored, arguments, load, bar):
            results.append(result)
            for note in result["notes"]:
                print_note(note)
            if not arguments.json:
                bar.print_result(f"{result['mask']}: {summary(result)}")
    seconds = round(time.perf_counter() - begin, 3)
    if arguments.phase == ALL and "phase" in results[0]:
        return {**model_entry(stored, predictor[0]), "input": str(tasks[0].scan), "phases": results, "seconds": seconds}
    return {**model_entry(stored, predictor[0]), **results[0], "seconds": seconds}


def segment_task(
    task: SegmentationTask,
    stored: StoredBundle,
    arguments: argparse.Namespace,
    load: Callable[[], Predictor],
    report: Report,
    keep: Picture | None = None,
) -> Iterator[dict[str, Any]]:
    """Segment one scan and write its mask, of a time series one mask for each phase that is asked for.

    Yields a description of each for JSON; `keep` is called with each mask that is written.
    """
    started = time.perf_counter()
    notes: list[str] = []
    scan = open_task(task, arguments.series, arguments.image_type, notes.append, arguments.spacing)
    numbers = scan.phases.chosen(arguments.phase)
    if not numbers:
        check_ventricle(stored, scan.phases, arguments.phase)
    every = len(numbers) > 1
    targets = {number: task.of_phase(number, scan.phases.count) if every else task for number in numbers}
    for target in targets.values():
        outputs.check_results(target, [label.name for label in stored.card.labels])
    first = numbers[0] if numbers else 1
    read = read_phase(
        scan, first, task, arguments.spacing
    )  # before the model is loaded: a bad scan is reported at once
    predictor = load()
    if not numbers:
        first = find_phase(scan, arguments, predictor, report, notes.append)
        read, targets = read_phase(scan, first, task, arguments.spacing), {first: task}
    for position, (number, target) in enumerate(targets.items()):
        volume, series = read if number == first else read_phase(scan, number, task, arguments.spacing)
        beat = part_of(report, position / len(targets), 1 / len(targets), f"phase {number}") if every else report
        roi = task.region_mm if arguments.roi is None and arguments.at is None else arguments.roi
        prediction = predictor.predict(
            volume, roi=roi, at=arguments.at, tta=arguments.tta, want=_wanted(task), report=beat
        )
        target.make_folders()
        result = _write(target, prediction, series, [*dict.fromkeys(notes)], predictor.bundle.network.prototypes)
        notes.clear()
        if keep is not None:
            keep(target, volume, prediction.segmentation)
        if arguments.sr is not None and series is not None:
            from mper.cli.reports import report_on_mask

            beat(Progress("measuring", 1.0))
            result |= report_on_mask(arguments.sr, target.mask, prediction.segmentation, series, stored, result)
        if scan.phases.count > 1:
            times = scan.phases.times_ms
            result |= {"phase": number, "trigger_time_ms": times[number - 1] if times else None}
        yield {**result, "seconds": round(time.perf_counter() - started, 3)}
        started = time.perf_counter()


def _wanted(task: SegmentationTask) -> set[str]:
    """What the predictor computes besides the mask."""
    wanted = {"prototypes": task.prototypes, "probabilities": task.probabilities}
    return {name for name, path in wanted.items() if path is not None}


def _write(
    task: SegmentationTask, prediction: Prediction, series: DicomSeries | None, notes: Sequence[str], per_class: int
) -> dict[str, Any]:
    """Write the results, and describe them for JSON."""
    import numpy as np

    from mper.io import write_segmentation, write_volume
    from mper.labels import Segmentation, prototype_labels

    mask = prediction.segmentation
    written, checked = write_mask(task.mask, mask, series)
    notes = [*notes, *written]
    prototypes = probabilities = None
    if task.prototypes is not None and prediction.prototype_map is None:
        notes = [*notes, "the model has no prototypes; no prototype map is written"]
    elif task.prototypes is not None and prediction.prototype_map is not None:
        write_segmentation(
            task.prototypes, Segmentation(prediction.prototype_map, prototype_labels(mask.labels, per_class))
        )
        prototypes = str(task.prototypes)
    if task.probabilities is not None and prediction.probabilities is not None:
        files = outputs.probability_files(task.probabilities, [label.name for label in mask.labels])
        for path, probability in zip(files, prediction.probabilities[1:], strict=True):
            write_volume(path, mask.labelmap.with_array(probability.astype(np.float32)))
        probabilities = [str(path) for path in files]
    return {
        "input": str(task.scan),
        "mask": str(task.mask),
        "prototypes": prototypes,
        "probabilities": probabilities,
        "volumes_ml": rounded_volumes(mask.volumes_ml()),
        "confidence": round(float(prediction.confidence), 4),
        "quality": quality_entry(prediction),
        "roi_mm": roi_entry(prediction),
        "empty": not mask.labelmap.array.any(),
        "flags": [asdict(flag) for flag in prediction.flags],
        "notes": [*notes, *prediction.notes],
        **checked,
    }
