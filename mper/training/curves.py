"""A run's curves as a table and a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mper.training.runs import read_events

_SIZE = (960, 260)  # of one panel
_MARGIN = (70, 34, 20, 30)  # left, top, right, bottom
_PANELS = (
    ("losses", ("loss", "labelled", "pseudo", "prototype", "contrast", "entropy")),
    ("agreement of the two classifiers; share of voxels that the losses count", ("agreement", "known")),
    ("share of voxels whose labels are looked up, changed, abstained from", ("uncertain", "changed", "abstained")),
    ("mean Dice on the locked hold-out", ("dice",)),
    ("spread of the prototypes", ("spread",)),
    ("learning rate", ("rate",)),
)
_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14))


def write_curves(run: Path) -> None:
    """Write curves.csv and curves.png of a run folder from its events."""
    rows = _rows(read_events(run))
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    table, picture = run / ".curves.csv.part", run / ".curves.png.part"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    _draw(rows, picture)
    table.replace(run / "curves.csv")
    picture.replace(run / "curves.png")


def _rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures by rising step; what a killed run had told beyond its last checkpoint gives way to the second try."""
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
    from PIL import Image, ImageDraw, ImageFont

    panels = [(title, [n for n in names if any(n in row for row in rows)]) for title, names in _PANELS]
    panels = [(title, names) for title, names in panels if names]
    width, height = _SIZE
    picture = Image.new("RGB", (width, height * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(14)
    left, top, right, bottom = _MARGIN
    last = max(row["step"] for row in rows)
    for number, (title, names) in enumerate(panels):
        y0 = number * height
        x1, y1, x2, y2 = left, y0 + top, width - right, y0 + height - bottom
        values = [row[n] for n in names for row in rows if n in row]
        low, high = min(0.0, *values), max(values)
        high = high if high > low else low + 1
        draw.rectangle((x1, y1, x2, y2), outline=(180, 180, 180))
        draw.text((x1, y0 + 10), title, fill="black", font=font)
        for share in (0.0, 0.5, 1.0):
            y = y2 - share * (y2 - y1)
            draw.line((x1, y, x2, y), fill=(225, 225, 225))
            draw.text((6, y - 8), f"{low + share * (high - low):.3g}", fill=(90, 90, 90), font=font)
        draw.text((x2 - 90, y2 + 8), f"step {last}", fill=(90, 90, 90), font=font)
        for n, name in enumerate(names):
            colour = _COLOURS[n % len(_COLOURS)]
            line = [
                (x1 + row["step"] / max(last, 1) * (x2 - x1), y2 - (row[name] - low) / (high - low) * (y2 - y1))
                for row in rows
                if name in row
            ]
            if len(line) > 1:
                draw.line(line, fill=colour, width=2)
            draw.text((x1 + 8 + 110 * n, y1 + 6), name, fill=colour, font=font)
    picture.save(path, format="png")
