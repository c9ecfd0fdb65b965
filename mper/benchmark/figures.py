"""Pictures of a benchmark: quality against the number of labels, and the worst, the median and the best case.

Drawn with Pillow alone, as all of our pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mper.benchmark.plan import Benchmark, Cohort, Run, Variant
from mper.benchmark.run import read_masks
from mper.benchmark.tables import ALL, Row, rows
from mper.datasets.packed import open_dataset
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.utils.files import write_atomically
from mper.visualization.figure import with_outline
from mper.volume import Volume

Rgb = npt.NDArray[np.uint8]  # (rows, columns, 3)

_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (140, 86, 75))
_GROUND, _TEXT, _QUIET = (19, 22, 28), (236, 239, 244), (139, 148, 163)
_REFERENCE = (120, 255, 140)  # outline of what people drew, and of what a method did
_OURS = (255, 209, 102)
_PANEL, _GAP, _EDGE, _LINE = 230, 10, 20, 24
_MOST = 6  # methods in one picture of cases
_MARGIN_MM = 12.0
_PLOTS = (("dice", "Dice %", 100), ("hd95_voxel", "95HD voxel", 1))
_PLOT = (620, 300)
_TURN = np.deg2rad((25, -35))  # of surfaces: about the axes from left to right and from feet to head
_FINE_MM = 1.25  # voxels of surfaces
_LIGHT = np.array((-0.75, -0.45, -0.5))  # where it comes from, seen from the camera (depth, down, right)


def write_figures(benchmark: Benchmark, chosen: Cohort, results: Mapping[Run, Mapping[str, Any]], home: Path) -> None:
    """Write results.png, and of each number of labels cases-N.png (slices) and surfaces-N.png."""
    if not results:
        return
    _save(home / "results.png", plot(rows(results)))
    data = open_dataset(chosen.data)
    for labeled in dict.fromkeys(run.labeled for run in results):
        first = {run.variant: f for run, f in results.items() if run.labeled == labeled and run.seed == 0}
        masks = {run.variant: read_masks(run, home) for run in results if run.labeled == labeled and run.seed == 0}
        columns = {variant: (found, masks[variant]) for variant, found in first.items() if masks[variant]}
        if not columns:
            continue
        ids = pick_cases(first)
        scans = {case_id: (data.case(case_id).image(), data.case(case_id).label()) for case_id in ids.values()}
        shown = dict(list(columns.items())[:_MOST])
        told = (shown, ids, scans, data.labels)
        cut = f"cut to {_MARGIN_MM:g} mm around the reference"
        some = f"; the first {_MOST} of {len(columns)} methods" if len(shown) < len(columns) else ""
        lines = f"green: reference; yellow: the method; {cut}{some}"
        _save(home / f"cases-{labeled}.png", _grid(*told, _slices, lines, ()))
        coloured = data.labels if len(data.labels) > 1 else ()
        _save(home / f"surfaces-{labeled}.png", _grid(*told, _surfaces, f"{cut}{some}", coloured))


def pick_cases(results: Mapping[Variant, Mapping[str, Any]]) -> dict[str, str]:
    """The ids of the worst, the median and the best case, by the mean Dice of all methods; of two, no median."""
    of_case: dict[str, list[float]] = {}
    for found in results.values():
        for case in found["cases"]:
            of_case.setdefault(case["id"], []).append(case["dice"])
    order = sorted(of_case, key=lambda case_id: (float(np.mean(of_case[case_id])), case_id))
    if len(order) < 3:  # each case once
        return dict(zip(("worst", "best"), order, strict=False))
    return {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}


# ---------------------------------------------------------------------- plots


def plot(made: Sequence[Row]) -> Image.Image:
    """Mean over seeds, with a bar of one standard deviation, against the number of labels; a panel for each figure.

    More methods than there are colours stand below each other instead.
    """
    whole = [row for row in made if row.structure == ALL]
    words = list(dict.fromkeys(row.variant for row in whole))
    if len(words) > len(_COLOURS):
        return _one_below_the_other(whole)
    counts = sorted({row.labeled for row in whole})
    font = ImageFont.load_default(14)
    width, height = _PLOT
    legend = 22 * len(words)
    picture = Image.new("RGB", (2 * width, height + legend + 20), "white")
    draw = ImageDraw.Draw(picture)
    for panel, (name, title, scale) in enumerate(_PLOTS):
        points = {(row.variant, row.labeled): found for row in whole if (found := row.spread(name))}
        left, top, right, bottom = panel * width + 60, 34, (panel + 1) * width - 20, height - 34
        draw.text((left, 10), title, "black", font)
        if not points:
            continue
        low, high = _range([(scale * m, scale * np.nan_to_num(d)) for m, d in points.values()], scale)
        digits = _digits(low, high)
        draw.rectangle((left, top, right, bottom), outline=(180, 180, 180))
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = bottom - share * (bottom - top)
            draw.line((left, y, right, y), fill=(225, 225, 225))
            draw.text((left - 8, y), f"{low + share * (high - low):.{digits}f}", (90, 90, 90), font, anchor="rm")
        step = (right - left) / len(counts)
        for n, labeled in enumerate(counts):
            draw.text((left + (n + 0.5) * step, bottom + 8), f"{labeled} labelled", (90, 90, 90), font, anchor="mt")
        for number, word in enumerate(words):
            aside = (number - (len(words) - 1) / 2) * step * 0.7 / max(1, len(words))
            path = []
            for n, labeled in enumerate(counts):
                if (word, labeled) not in points:
                    continue
                mean, deviation = (scale * np.nan_to_num(value) for value in points[word, labeled])
                x = left + (n + 0.5) * step + aside
                y, y1, y2 = (
                    bottom - (np.clip(v, low, high) - low) / (high - low) * (bottom - top)
                    for v in (mean, mean - deviation, mean + deviation)
                )
                colour = _COLOURS[number % len(_COLOURS)]
                draw.line((x, y1, x, y2), fill=colour, width=2)
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
                path.append((x, y))
            if len(path) > 1:
                draw.line(path, fill=_COLOURS[number % len(_COLOURS)], width=1)
    for number, word in enumerate(words):
        y = height + 22 * number
        draw.ellipse((60, y - 4, 68, y + 4), fill=_COLOURS[number % len(_COLOURS)])
        draw.text((80, y), word, "black", font, anchor="lm")
    return picture


def _one_below_the_other(whole: Sequence[Row]) -> Image.Image:
    """A line for each method and number of labels, with its mean, its deviation and its name."""
    font = ImageFont.load_default(14)
    names = [f"{row.variant}, {row.labeled} labelled" for row in whole]
    room = 40 + round(max(font.getlength(name) for name in names))
    width, line, top = _PLOT[0] * 3 // 4, 22, 34
    bottom = top + line * len(whole)
    picture = Image.new("RGB", (room + 2 * width, bottom + 40), "white")
    draw = ImageDraw.Draw(picture)
    for n, name in enumerate(names):
        draw.text((room - 20, top + (n + 0.5) * line), name, "black", font, anchor="rm")
    for panel, (name, title, scale) in enumerate(_PLOTS):
        points = {n: found for n, row in enumerate(whole) if (found := row.spread(name))}
        left, right = room + panel * width, room + (panel + 1) * width - 40
        draw.text((left, 10), title, "black", font)
        if not points:
            continue
        low, high = _range([(scale * m, scale * np.nan_to_num(d)) for m, d in points.values()], scale)
        draw.rectangle((left, top, right, bottom), outline=(180, 180, 180))
        for share in (0, 0.25, 0.5, 0.75, 1):
            x = left + share * (right - left)
            draw.line((x, top, x, bottom), fill=(225, 225, 225))
            value = f"{low + share * (high - low):.{_digits(low, high)}f}"
            draw.text((x, bottom + 8), value, (90, 90, 90), font, anchor="mt")
        for n, found in points.items():
            mean, deviation = (scale * np.nan_to_num(value) for value in found)
            x, x1, x2 = (
                left + (np.clip(v, low, high) - low) / (high - low) * (right - left)
                for v in (mean, mean - deviation, mean + deviation)
            )
            y = top + (n + 0.5) * line
            draw.line((x1, y, x2, y), fill=_COLOURS[0], width=2)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_COLOURS[0])
    return picture


def _range(points: Sequence[tuple[float, float]], scale: float) -> tuple[float, float]:
    """Of an axis: no less than 0, and of shares (those with a scale) no more than 100 %."""
    low, high = min(m - d for m, d in points), max(m + d for m, d in points)
    space = 0.08 * (high - low) or 1.0
    return max(0.0, low - space), high + space if scale == 1 else min(scale, high + space)


def _digits(low: float, high: float) -> int:
    """Behind the point, so that the five numbers of an axis differ."""
    return max(1, 1 - math.floor(math.log10((high - low) / 4)))


# ---------------------------------------------------------------------- cases

Scan = tuple[Volume, Volume | None]
Drawer = Callable[[Scan, npt.NDArray[np.uint8] | None, Sequence[Label]], Rgb]


def _grid(
    columns: Mapping[Variant, tuple[Mapping[str, Any], Mapping[str, npt.NDArray[np.uint8]]]],
    ids: Mapping[str, str],
    scans: Mapping[str, Scan],
    labels: Sequence[Label],
    draw_panel: Drawer,
    caption: str,
    named: Sequence[Label],
) -> Image.Image:
    """A row for each case, a column for people and for each method; below, structures are named in their colours."""
    rows_ = []
    for case_id in ids.values():
        masks = [None, *(kept[case_id] for _, kept in columns.values())]
        rows_.append([draw_panel(scans[case_id], mask, labels) for mask in masks])
    heights = [max(panel.shape[0] for panel in row) for row in rows_]
    width = 2 * _EDGE + (1 + len(columns)) * (_PANEL + _GAP) - _GAP
    height = 2 * _EDGE + _LINE + sum(h + _LINE + _GAP for h in heights) + _LINE * (1 + bool(named))
    picture = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    heads = ["reference", *(variant.word for variant in columns)]
    for n, head in enumerate(heads):
        draw.text((_EDGE + n * (_PANEL + _GAP), _EDGE), head, _TEXT if n else _REFERENCE, font)
    top = _EDGE + _LINE
    for (name, case_id), row, height in zip(ids.items(), rows_, heights, strict=True):
        for n, panel in enumerate(row):
            left = _EDGE + n * (_PANEL + _GAP)
            words = f"{name}: {case_id}"[:34]
            if n:
                found = list(columns.values())[n - 1][0]
                words = f"Dice {next(c['dice'] for c in found['cases'] if c['id'] == case_id):.3f}"
            draw.text((left, top + 4), words, _QUIET, small)
            picture.paste(Image.fromarray(panel), (left + (_PANEL - panel.shape[1]) // 2, top + _LINE))
        top += height + _LINE + _GAP
    draw.text((_EDGE, top), caption, _QUIET, small)
    along = float(_EDGE)
    for label in named:
        draw.text((along, top + _LINE), label.name, label.colour, small)
        along += small.getlength(label.name) + 12
    return picture


def _slices(scan: Scan, mask: npt.NDArray[np.uint8] | None, labels: Sequence[Label]) -> Rgb:
    """The slice with most of the reference, cut to it, with the outlines of reference and mask."""
    image, reference = scan
    assert reference is not None
    wanted = _structures(reference)
    k = int((wanted != BACKGROUND).sum(axis=(1, 2)).argmax())
    rows_, columns = (_around(wanted != BACKGROUND, axis, image.geometry.step_lengths[axis]) for axis in (1, 2))
    cut = (k, rows_, columns)
    steps = image.geometry.step_lengths
    height, width = (rows_.stop - rows_.start) * steps[1], (columns.stop - columns.start) * steps[2]
    scale = _PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = np.asarray(image.array[cut], np.float32)
    low, high = np.percentile(grey, (1, 99.5))
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    shade = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), np.float32)
    picture = np.repeat(shade[..., None], 3, axis=2)
    for drawn, colour in ((wanted, _REFERENCE), (mask, _OURS)):
        if drawn is None:
            continue
        for label in labels:
            share = Image.fromarray(np.float32(drawn[cut] == label.value)).resize(size, Image.Resampling.BICUBIC)
            inside = np.asarray(share) > 0.5
            if inside.any() and not inside.all():
                picture = with_outline(picture, inside, colour, 3.2)
    return picture.round().astype(np.uint8)


def _surfaces(scan: Scan, mask: npt.NDArray[np.uint8] | None, labels: Sequence[Label]) -> Rgb:
    """The structures in space, all methods from one side, cut to where the reference is."""
    image, reference = scan
    assert reference is not None
    wanted = _structures(reference)
    steps = image.geometry.step_lengths
    window = tuple(_around(wanted != BACKGROUND, axis, steps[axis]) for axis in range(3))
    drawn = wanted if mask is None else mask
    colours = [label.colour if len(labels) > 1 else (_REFERENCE if mask is None else _OURS) for label in labels]
    masks = [drawn[window] == label.value for label in labels]
    return surfaces(masks, steps, colours, _PANEL)


def surfaces(
    masks: Sequence[npt.NDArray[np.bool_]],
    steps_mm: Sequence[float],
    colours: Sequence[Sequence[int]],
    pixels: int,
) -> Rgb:
    """Masks (k, j, i) as smooth lit surfaces, seen from the front, the left and above.

    Parameters
    ----------
    masks : sequence of bool arrays of one shape
    steps_mm : (float, float, float)
        Along each of their axes.
    colours : sequence of (red, green, blue)
        One for each mask.
    pixels : int
        Sides of the picture.
    """
    across = np.array(masks[0].shape) * np.array(steps_mm)
    side = 0.85 * float(np.linalg.norm(across))  # room for it, as it is turned
    step = max(_FINE_MM, side / 160)
    count = int(np.ceil(side / step))
    a, b = _TURN
    tilt = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])  # of (k, j)
    spin = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])  # of (j, i)
    # Camera axes (depth, down, right) in the patient's (k to the head, j to the back, i to the left): seen from the
    # front, depth goes to the back and down to the feet.
    camera = tilt @ spin @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float)
    matrix = camera * step / np.array(steps_mm)[:, None]
    centre = (np.array(masks[0].shape) - 1) / 2
    offset = centre - matrix @ np.full(3, (count - 1) / 2)
    picture = np.full((count, count, 3), _GROUND, np.float32)
    nearest = np.full((count, count), np.inf)
    for mask, colour in zip(masks, colours, strict=True):
        solid = ndimage.affine_transform(mask.astype(np.float32), matrix, offset, (count,) * 3, order=1)
        solid = ndimage.gaussian_filter(solid, 1.2)
        depth = (solid > 0.5).argmax(axis=0)
        rows_, columns = np.nonzero((solid > 0.5).any(axis=0) & (depth < nearest))
        if rows_.size == 0:
            continue
        at = (depth[rows_, columns], rows_, columns)
        normal = -np.stack([g[at] for g in np.gradient(solid)], axis=1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
        light = 0.3 + 0.7 * np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
        picture[rows_, columns] = light[:, None] * np.array(colour, np.float32)
        nearest[rows_, columns] = depth[rows_, columns]
    small = Image.fromarray(picture.round().astype(np.uint8))
    return np.asarray(small.resize((pixels, pixels), Image.Resampling.BICUBIC))


def _structures(reference: Volume) -> npt.NDArray[np.uint8]:
    return np.where(reference.array == UNLABELLED, BACKGROUND, reference.array).astype(np.uint8)


def _around(inside: npt.NDArray[np.bool_], axis: int, step: float) -> slice:
    """Where the mask is, and some mm more."""
    found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
    if found.size == 0:
        return slice(0, inside.shape[axis])
    margin = int(np.ceil(_MARGIN_MM / step))
    return slice(max(0, int(found[0]) - margin), min(inside.shape[axis], int(found[-1]) + 1 + margin))


def _save(path: Path, picture: Image.Image) -> None:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    write_atomically(path, [stream.getvalue()])
