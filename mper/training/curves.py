"""A run's curves as a table and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mper.progress import Notify, ignore_notice
from mper.training.runs import read_events
from mper.utils.errors import explain
from mper.utils.files import write_text
from mper.utils.plots import MissingMatplotlib, new_figure, save_figure

_WIDTH, _HEIGHT = 960, 260  # of one panel, in pixels
_PANELS = {
    "agreement of two classifiers; share of voxels in the loss": ("agreement", "known"),
    "share of voxels whose labels are matched, changed, left out": ("uncertain", "changed", "abstained"),
    "mean Dice on the locked hold-out": ("dice",),
    "spread of the prototypes": ("spread",),
    "learning rate": ("rate",),
}  # what no panel names is a loss
_TIME = ("step", "fraction", "elapsed_s")


def write_curves(run: Path, notify: Notify = ignore_notice) -> None:
    """Write curves.csv of a run folder from its events, and curves.png where matplotlib is installed.

    Neither is worth a training: a table that another program has open on Windows is a notice.
    """
    rows = _rows(read_events(run))
    if not rows:
        return
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(run / "curves.csv", table.getvalue())
        _draw(rows, run / "curves.png")
    except MissingMatplotlib as error:
        notify(f"curves are in curves.csv only: {error}")
    except OSError as error:
        notify(f"the curves cannot be written ({explain(error)}); `mper runs export {run}` writes them for TensorBoard")


def _rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The values by rising step; those that a killed run reported after its last checkpoint are replaced."""
    rows: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "step":
            while rows and rows[-1]["step"] >= event["step"]:
                rows.pop()
            rows.append({name: value for name, value in event.items() if name not in ("time", "event")})
        elif event["event"] == "holdout":
            dice = sum(event["dice"].values()) / len(event["dice"])
            if rows and rows[-1]["step"] == event["step"]:
                rows[-1]["dice"] = dice
            else:
                rows.append({"step": event["step"], "dice": dice})
    return rows


def _draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    known = list(dict.fromkeys(name for row in rows for name in row if name not in _TIME))
    named = {name for names in _PANELS.values() for name in names}
    panels = {"losses": [name for name in known if name not in named]}
    panels |= {title: [name for name in names if name in known] for title, names in _PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    figure = new_figure(_WIDTH, _HEIGHT * len(panels))
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 20 else None, label=name)
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[-1].set_xlabel("step")
    save_figure(path, figure)
