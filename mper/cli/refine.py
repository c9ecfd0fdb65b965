"""``mper refine``: a scan and strokes in, a corrected mask out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.common import (
    check_single,
    load_predictor,
    model_entry,
    quality_entry,
    read_scan,
    roi_entry,
    rounded_volumes,
    volume_texts,
    write_mask,
)
from mper.cli.console import Bar, print_json, print_note, print_result
from mper.cli.inputs import only_scan
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
)
from mper.cli.outputs import SegmentationTask
from mper.progress import Progress, part_of
from mper.utils.errors import OK, UsageError
from mper.utils.text import duration

if TYPE_CHECKING:
    from mper.models.card import StoredBundle
    from mper.refinement.refiner import Change
    from mper.strokes import Stroke, StrokeList
    from mper.volume import Volume

_TEXT = """\
Segment a scan and correct the mask with strokes, as MPER Segment does in 3D Slicer: for scripted studies, and to
reproduce a mask from the strokes that were saved with it.

STROKES is a JSON file of strokes in the order in which they were drawn:

  {"strokes": [{"label": "LA", "points_mm": [[12.5, -30.0, 44.1], [13.0, -30.0, 44.1]], "radius_mm": 2.0},
               {"label": 0,    "points_mm": [[25.0, -31.5, 40.0]],                      "radius_mm": 3.0}]}

A label is a structure's name or value, 0 or "background" for background. Points are in LPS mm (x to the patient's left,
y to the back, z to the head; 3D Slicer shows RAS, where x and y have the other sign). Each point is a ball of the
radius; points are not joined, so place them no further apart than the radius. In a scan of unknown spacing a voxel
counts as 1 mm along each axis, and only a radius below 1 stays in its slice. The optional entry "scan_sha256" is the
checksum of the scan's voxels, which is then compared; strokes saved in a dataset have it. Without strokes the mask is
the model's. OUTPUT is as for `mper segment`: a mask at OUTPUT is replaced, a scan is not.
"""
_EXAMPLES = """\
  mper refine scan.nrrd strokes.json mask.seg.nrrd
  mper refine dicom-folder strokes.json seg.dcm --model la
  mper refine scan.nii.gz strokes.json mask.nii.gz --model acdc --json
"""
_PREDICTED = 0.7  # share of the work


def add(commands: Commands) -> None:
    command = add_command(commands, "refine", "segment a scan and correct the mask with strokes", _TEXT, _EXAMPLES)
    command.add_argument("scan", type=Path, metavar="SCAN", help="a file, or a folder with one DICOM series")
    command.add_argument("strokes", type=Path, metavar="STROKES", help="a JSON file")
    command.add_argument("output", type=Path, metavar="OUTPUT", help="the mask to write")
    add_model(command, default="la")
    add_device(command)
    add_region(command)
    add_phase(command, every=False)
    add_spacing(command)
    add_tta(command)
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    task = _plan(arguments)
    from mper.io.strokes import read_strokes
    from mper.models.card import read_bundle
    from mper.resources import find_model

    stored = read_bundle(find_model(arguments.model))
    strokes = read_strokes(arguments.strokes, stored.card.labels)  # before torch is loaded, which takes seconds
    if arguments.json:
        with contextlib.redirect_stdout(sys.stderr):
            answer = _refine(task, strokes, stored, arguments)
        print_json(answer)
    else:
        _refine(task, strokes, stored, arguments)
    return OK


def _plan(arguments: argparse.Namespace) -> SegmentationTask:
    """The scan and the files of its result, checked as far as possible before the work."""
    from mper.io.scans import expand_inputs

    matches, output = expand_inputs([arguments.scan.expanduser()]), arguments.output.expanduser()
    arguments.strokes = arguments.strokes.expanduser()
    if len(matches) != 1:
        raise UsageError(f"strokes belong to one scan; {arguments.scan} stands for {len(matches)}: name one of them")
    scan = matches[0] if arguments.series else only_scan(matches[0], output)
    task = outputs.single_task(scan, output, None, None)
    if task.mask.exists() and arguments.strokes.exists() and task.mask.samefile(arguments.strokes):
        raise UsageError(f"the result {task.mask} would replace the strokes; choose another output")
    check_single(task, arguments.series)
    return task


def _refine(
    task: SegmentationTask, listed: StrokeList, stored: StoredBundle, arguments: argparse.Namespace
) -> dict[str, Any]:
    begin = time.perf_counter()
    with Bar(shown=not arguments.json) as bar:
        bar(Progress("reading", 0.0))
        scan, series, notes = read_scan(
            task, arguments.series, arguments.phase, arguments.image_type, arguments.spacing
        )
        _check_scan(listed, scan, arguments.strokes)
        notes += _on_model(listed, stored)
        bar(Progress("loading the model", 0.0))
        predictor = load_predictor(stored, arguments.device)
        report = part_of(bar, 0.0, _PREDICTED, "segmenting")
        prediction = predictor.predict(
            scan, roi=arguments.roi, at=arguments.at, tta=arguments.tta, want={"embeddings"}, report=report
        )
        from mper.refinement.refiner import Refiner

        refiner = Refiner(prediction)
        refiner.set_strokes(listed.strokes, report=part_of(bar, _PREDICTED, 1 - _PREDICTED, "correcting"))
        names = {0: "background", **{label.value: label.name for label in stored.card.labels}}
        changes = zip(refiner.strokes, refiner.changes, strict=True)
        described = [_described(stroke, change, names) for stroke, change in changes]
        bar(Progress("writing", 1.0))
        mask = refiner.segmentation
        written, checked = write_mask(task.mask, mask, series)
    found = {
        "input": str(task.scan),
        "strokes_file": str(arguments.strokes),
        "mask": str(task.mask),
        "strokes": described,
        "volumes_ml": rounded_volumes(mask.volumes_ml()),
        "volumes_ml_before": rounded_volumes(prediction.segmentation.volumes_ml()),
        "quality_before": quality_entry(prediction),
        "flags_before": [asdict(flag) for flag in prediction.flags],
        "roi_mm": roi_entry(prediction),
        "empty": not mask.labelmap.array.any(),
        "notes": [*notes, *_before(prediction.notes, listed), *written],
        **checked,
        "seconds": round(time.perf_counter() - begin, 3),
    }
    _show(found, quiet=arguments.json)
    return {**model_entry(stored, predictor), **found}


def _check_scan(listed: StrokeList, scan: Volume, path: Path) -> None:
    """Refuse strokes of another scan before the model is loaded."""
    from mper.datasets.scan_record import voxels_sha256

    if listed.scan_sha256 is not None:
        own = voxels_sha256(scan)
        if own != listed.scan_sha256:
            raise ValueError(
                f"{path}: the strokes were drawn on another scan (checksum {listed.scan_sha256[:12]}..., "
                f"this one has {own[:12]}...); use the scan that they belong to"
            )
    for number, stroke in enumerate(listed.strokes, 1):
        if not len(stroke.voxels(scan.geometry)):
            x, y, z = stroke.points_mm[0]
            raise ValueError(
                f"{path}: stroke {number} lies outside the scan (first point {x:.6g}, {y:.6g}, {z:.6g}); "
                "points are in LPS mm of this scan"
            )


def _on_model(listed: StrokeList, stored: StoredBundle) -> list[str]:
    """A note if the strokes corrected the mask of another model, where they may correct too little or too much."""
    own = (stored.card.name, f"{stored.card.name}/{stored.card.version}")
    if listed.model is None or listed.model in own:
        return []
    return [f"the strokes were drawn on a mask of the model {listed.model}; this mask is of {own[1]}"]


def _before(notes: Sequence[str], listed: StrokeList) -> list[str]:
    """Notes on the model's own mask, which strokes may have outdated."""
    return [f"before the strokes: {note}" if listed.strokes else note for note in notes]


def _described(stroke: Stroke, change: Change, names: dict[int, str]) -> dict[str, Any]:
    """A stroke and what it changed, for JSON."""

    def by_name(ml: dict[int, float] | None) -> dict[str, float] | None:
        return None if ml is None else {names[value]: round(amount, 3) for value, amount in ml.items()}

    return {
        "label": names[stroke.value],
        "value": stroke.value,
        "voxels": change.voxels,
        "added_ml": by_name(change.added_ml),
        "removed_ml": by_name(change.removed_ml),
        "notes": list(change.notes),
    }


def _show(found: dict[str, Any], quiet: bool) -> None:
    """For people: what each stroke changed, then the mask."""
    for note in found["notes"]:
        print_note(note)
    for number, stroke in enumerate(found["strokes"], 1):
        for note in stroke["notes"]:
            print_note(f"stroke {number}: {note}")
        if not quiet:
            print_result(f"stroke {number} ({stroke['label']}): {', '.join(_amounts(stroke))}")
    if not quiet:
        many = len(found["strokes"])
        words = [
            *(["EMPTY MASK"] * found["empty"]),
            *volume_texts(found),
            f"{many} stroke{'s' * (many != 1)}",
            *(["export check passed"] * ("check" in found)),
        ]
        print_result(f"{found['mask']}: {', '.join([*words, duration(found['seconds'])])}")


def _amounts(stroke: dict[str, Any]) -> Sequence[str]:
    if not stroke["voxels"]:
        return ["changed nothing"]
    if stroke["added_ml"] is None:
        return [f"{stroke['voxels']} voxels changed"]
    signs = (("+", stroke["added_ml"]), ("-", stroke["removed_ml"]))
    words = (
        (sign, "less than 0.01" if ml < 0.005 else f"{ml:.2f}", name) for sign, by in signs for name, ml in by.items()
    )
    return [f"{sign}{amount} mL {name}" for sign, amount, name in words]
