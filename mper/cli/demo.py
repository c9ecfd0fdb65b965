"""``mper demo``: a demonstration on the sample scan."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from mper.cli.console import Bar, print_note, print_result
from mper.cli.options import Commands, add_command, add_device, out_folder
from mper.labels import Segmentation, prototype_labels
from mper.progress import Progress, Report, ignore_progress
from mper.utils.errors import OK
from mper.utils.text import duration

_TEXT = """\
Segment the sample scan that comes with mper: a late gadolinium enhanced MRI of a left atrium. Writes the mask, the
prototype map (the learnt pattern that each voxel resembles most) and a picture of both. No data leaves this machine.
"""


def add(commands: Commands) -> None:
    command = add_command(
        commands, "demo", "try mper on its sample scan", _TEXT, "  mper demo\n  mper demo --out my-folder\n"
    )
    command.add_argument(
        "--out",
        type=out_folder,
        metavar="DIR",
        default=Path("mper-demo"),
        help="folder for the results (default: mper-demo)",
    )
    add_device(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.resources import sample_scan

    with Bar() as bar:
        made = demo(arguments.out, device=arguments.device, report=bar)
    for note in made.notes:
        print_note(note)
    sizes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in made.volumes_ml.items() if ml is not None)
    print_result(f"segmented the sample scan with {made.model} in {duration(made.seconds)} on {made.device}: {sizes}")
    if made.dice is not None:
        print_result(
            f"Dice with the expert's mask: {made.dice:.3f} (one case; `mper models` shows the quality of the model)"
        )
    for path, what in made.files:
        print_result(f"  {path}  {what}")
    print_result(
        f"total time {duration(made.seconds_in_all)}; to view it in 3D Slicer, open {sample_scan()} and the mask"
    )
    return OK


@dataclass(frozen=True)
class DemoResult:
    """The results of a demonstration.

    Parameters
    ----------
    files : tuple of (Path, str)
        Each file with what it is.
    model, device : str
        What segmented, and where.
    seconds, seconds_in_all : float
        Of the segmentation, and with reading, loading and writing.
    volumes_ml : dict
        Of each structure.
    dice : float or None
        With the reference that comes with the sample scan: of one case, no measure of a model. None without reference.
    notes : tuple of str
    """

    files: tuple[tuple[Path, str], ...]
    model: str
    device: str
    seconds: float
    seconds_in_all: float
    volumes_ml: dict[str, float | None]
    dice: float | None
    notes: tuple[str, ...]


def demo(out: Path, model: str = "la", device: str = "auto", report: Report = ignore_progress) -> DemoResult:
    """Segment the sample scan and write mask, prototype map and picture into the folder `out`.

    Raises
    ------
    FileNotFoundError
        If model or sample scan did not come with the program.
    OSError
        If `out` cannot be written.
    """
    began = time.perf_counter()
    report(Progress("reading the sample scan", 0.0))
    from mper.io import read_volume, write_segmentation
    from mper.resources import find_model, sample_scan

    path = find_model(model)
    scan = read_volume(sample_scan())
    out.mkdir(parents=True, exist_ok=True)
    report(Progress("loading the model", 0.1))
    from mper.evaluation.sample import sample_dice
    from mper.inference.predictor import Predictor
    from mper.models.bundle import ModelBundle

    predictor = Predictor(ModelBundle.load(path), device)
    prediction = predictor.predict(scan, want={"prototypes"}, report=report)
    mask, per_class = prediction.segmentation, predictor.bundle.network.prototypes
    card = predictor.bundle.card
    volumes_ml = mask.volumes_ml()
    dice = sample_dice(mask)
    report(Progress("writing", 0.9))
    files = [(out / "mask.seg.nrrd", "the mask, on the scan's own grid")]
    write_segmentation(files[0][0], mask)
    if prediction.prototype_map is not None:
        files.append((out / "prototypes.seg.nrrd", "the learnt pattern that each voxel resembles most"))
        write_segmentation(
            files[-1][0], Segmentation(prediction.prototype_map, prototype_labels(mask.labels, per_class))
        )
    files.append((out / "demo.png", "a picture of both"))
    facts = [f"model {card.name} {card.version}, {prediction.device}, {prediction.seconds:.1f} s", _sizes(volumes_ml)]
    if dice is not None:
        facts.append(f"Dice {dice:.3f} with the expert's mask (this one case)")
    from mper.visualization.figure import draw_segmentation

    title = "Left atrium in LGE-MRI" if [label.name for label in mask.labels] == ["LA"] else card.title
    draw_segmentation(files[-1][0], scan, mask, prediction.prototype_map, per_class, title, facts)
    return DemoResult(
        tuple(files),
        f"{card.name} {card.version}",
        prediction.device,
        prediction.seconds,
        time.perf_counter() - began,
        volumes_ml,
        dice,
        prediction.notes,
    )


def _sizes(volumes_ml: dict[str, float | None]) -> str:
    known = [f"{name} {ml:.1f} mL" for name, ml in volumes_ml.items() if ml is not None]
    return ", ".join(known)
