"""Figures of a benchmark: quality against the number of labels, and the worst, the median and the best case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mper.benchmark.plan import Benchmark, Cohort, Run, Variant
from mper.benchmark.run import read_masks
from mper.benchmark.surfaces import render_surfaces
from mper.benchmark.tables import ALL, Row, rows
from mper.datasets.packed import open_dataset
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.utils.plots import new_figure, save_figure
from mper.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLOTS = (("dice", "Dice %", 100), ("hd95_voxel", "95HD voxel", 1))
_PLOT = (620, 300)  # pixels of one
_LINE = 22  # pixels of a line of text
_FEW = 6  # methods that are told apart by their colours
_GROUND, _TEXT = "#13161c", "#eceff4"
_REFERENCE, _PREDICTED = "#78ff8c", "#ffd166"  # outlines of the reference and of a method's mask
_PANEL = 230  # pixels of a case
_MARGIN_MM = 12.0  # around the reference
_SMOOTHING = 0.7  # of outlines, in voxels


class Scan(NamedTuple):
    """A case that is shown: its scan and its reference."""

    image: Volume
    reference: Volume


Mask = npt.NDArray[np.uint8]
Drawer = Callable[["Axes", Scan, "Mask | None", Sequence[Label]], None]


def write_figures(benchmark: Benchmark, cohort: Cohort, results: Mapping[Run, Mapping[str, Any]], home: Path) -> None:
    """Write results.png, and for each number of labels cases-N.png (slices) and surfaces-N.png.

    Raises
    ------
    MissingMatplotlib
        If matplotlib is not installed.
    """
    if not results:
        return
    save_figure(home / "results.png", plot_results(rows(results)))
    data = open_dataset(cohort.data)
    for labeled in dict.fromkeys(run.labeled for run in results):
        first = {run: found for run, found in results.items() if run.labeled == labeled and run.seed == 0}
        masks = {run: masks for run in first if (masks := read_masks(run, home))}
        if not masks:
            continue
        shown = dict(list(masks.items())[:_FEW])
        ids = pick_cases({run.variant: found for run, found in first.items()})
        columns = {
            run.variant.word: {case["id"]: (masks[case["id"]], case["dice"]) for case in results[run]["cases"]}
            for run, masks in shown.items()
        }
        scans = {}
        for case_id in ids.values():
            reference = data.case(case_id).label()
            assert reference is not None  # cases without a label are not evaluated on
            scans[case_id] = Scan(data.case(case_id).image(), reference)
        cut = f"cut to {_MARGIN_MM:g} mm around the reference"
        if len(shown) < len(masks):
            cut += f"; the first {len(shown)} of {len(masks)} methods"
        outlines = {"reference": _REFERENCE, "the method": _PREDICTED}
        surfaces = {label.name: _hex(label.colour) for label in data.labels} if len(data.labels) > 1 else {}
        draw = partial(_case_figure, columns, ids, scans, data.labels, cut)
        save_figure(home / f"cases-{labeled}.png", draw(_draw_slice, outlines))
        save_figure(home / f"surfaces-{labeled}.png", draw(_draw_surfaces, surfaces))


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


# ---------------------------------------------------------------------- results


def plot_results(table: Sequence[Row]) -> Figure:
    """Mean and standard deviation over seeds of all structures, a panel for each measure.

    Against the number of labels, with a colour for each method; a line for each where there are too many of them.
    """
    whole = [row for row in table if row.structure == ALL]
    words = list(dict.fromkeys(row.variant for row in whole))
    many = len(words) > _FEW
    width, height = _PLOT
    figure = new_figure(2 * width, 2 * _LINE + _LINE * len(whole) if many else height)
    axes = figure.subplots(1, 2, sharey=many)
    for axis, (name, title, scale) in zip(axes, _PLOTS, strict=True):
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if many:
            _plot_lines(axis, whole, name, scale)
        else:
            _plot_against_labels(axis, whole, words, name, scale)
    if not many:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(words))
    return figure


def _plot_against_labels(axis: Axes, table: Sequence[Row], words: Sequence[str], name: str, scale: float) -> None:
    counts = sorted({row.labeled for row in table})
    for number, word in enumerate(words):
        points = [(counts.index(row.labeled), *s) for row in table if row.variant == word and (s := row.spread(name))]
        if points:
            x, mean, deviation = np.array(sorted(points)).T
            x += (number - (len(words) - 1) / 2) * 0.7 / len(words)  # bars of several methods do not overlap
            deviation = scale * np.nan_to_num(deviation)
            axis.errorbar(x, scale * mean, deviation, marker="o", capsize=3, linewidth=1, label=word)
    axis.set_xticks(range(len(counts)), [f"{count} labelled" for count in counts])
    axis.set_xlim(-0.5, len(counts) - 0.5)


def _plot_lines(axis: Axes, table: Sequence[Row], name: str, scale: float) -> None:
    points = [(n, *spread) for n, row in enumerate(table) if (spread := row.spread(name))]
    if points:
        y, mean, deviation = np.array(points).T
        axis.errorbar(scale * mean, y, xerr=scale * np.nan_to_num(deviation), fmt="o", capsize=3)
    axis.set_yticks(range(len(table)), [f"{row.variant}, {row.labeled} labelled" for row in table])
    axis.set_ylim(len(table) - 0.5, -0.5)


# ---------------------------------------------------------------------- cases


def _case_figure(
    columns: Mapping[str, Mapping[str, tuple[Mask, float]]],
    ids: Mapping[str, str],
    scans: Mapping[str, Scan],
    labels: Sequence[Label],
    caption: str,
    draw: Drawer,
    legend: Mapping[str, str],
) -> Figure:
    """A row for each case, a column for the reference and for each method; above, what the colours mean."""
    figure = new_figure((1 + len(columns)) * _PANEL, len(ids) * (_PANEL + 2 * _LINE) + 2 * _LINE)
    figure.set_facecolor(_GROUND)
    axes = figure.subplots(len(ids), 1 + len(columns), squeeze=False)
    for line, (name, case_id) in zip(axes, ids.items(), strict=True):
        draw(line[0], scans[case_id], None, labels)
        line[0].set_title(f"reference\n{name}: {case_id}"[:44], color=_REFERENCE, fontsize=9)
        for axis, (word, found) in zip(line[1:], columns.items(), strict=True):
            mask, dice = found[case_id]
            draw(axis, scans[case_id], mask, labels)
            axis.set_title(f"{word}\nDice {dice:.3f}", color=_TEXT, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.supxlabel(caption, color=_TEXT, fontsize=9)
    handles = [axes[0, 0].plot([], color=colour, label=name)[0] for name, colour in legend.items()]
    if handles:
        style = {"facecolor": _GROUND, "edgecolor": _GROUND, "labelcolor": _TEXT, "fontsize": 9}
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), **style)
    return figure


def _draw_slice(axis: Axes, scan: Scan, mask: Mask | None, labels: Sequence[Label]) -> None:
    """The slice with most of the reference, cut to it, with the outlines of reference and mask."""
    wanted = _structures(scan.reference)
    k = int((wanted != BACKGROUND).sum(axis=(1, 2)).argmax())
    steps = scan.image.geometry.step_lengths
    down, across = (_around(wanted != BACKGROUND, n, steps[n]) for n in (1, 2))
    grey = np.asarray(scan.image.array[k, down, across], np.float32)
    low, high = np.percentile(grey, (1, 99.5))
    axis.imshow(grey, "gray", vmin=low, vmax=max(high, low + 1e-6), aspect=steps[1] / steps[2], interpolation="bicubic")
    outlined = [(wanted, _REFERENCE), *([] if mask is None else [(mask, _PREDICTED)])]
    for drawn, colour in outlined:
        for label in labels:
            share = (drawn[k, down, across] == label.value).astype(np.float32)
            inside = ndimage.gaussian_filter(share, _SMOOTHING)
            if inside.min() < 0.5 < inside.max():
                axis.contour(inside, [0.5], colors=[colour], linewidths=1.6)


def _draw_surfaces(axis: Axes, scan: Scan, mask: Mask | None, labels: Sequence[Label]) -> None:
    """The structures as surfaces, all methods seen from one side, cut to where the reference is."""
    wanted = _structures(scan.reference)
    steps = scan.image.geometry.step_lengths
    window = tuple(_around(wanted != BACKGROUND, axis, steps[axis]) for axis in range(3))
    drawn = (wanted if mask is None else mask)[window]
    one = _REFERENCE if mask is None else _PREDICTED
    colours = [label.colour if len(labels) > 1 else _rgb(one) for label in labels]
    masks = [drawn == label.value for label in labels]
    axis.imshow(render_surfaces(masks, steps, colours, _PANEL, _rgb(_GROUND)))


def _hex(colour: Sequence[int]) -> str:
    return f"#{bytes(colour).hex()}"


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _structures(reference: Volume) -> Mask:
    return np.where(reference.array == UNLABELLED, BACKGROUND, reference.array).astype(np.uint8)


def _around(inside: npt.NDArray[np.bool_], axis: int, step: float) -> slice:
    """Where the mask is along an axis, and some mm more."""
    found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
    if found.size == 0:
        return slice(0, inside.shape[axis])
    margin = int(np.ceil(_MARGIN_MM / step))
    return slice(max(0, int(found[0]) - margin), min(inside.shape[axis], int(found[-1]) + 1 + margin))
