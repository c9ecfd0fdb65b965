"""A report of measurements: one page of HTML for a case, CSV and a summary page for a cohort.

The page is one file with its pictures in it; a browser prints it as PDF. Nothing in it names a patient unless `lines`
do. Figures of one quantity by several methods are listed together, and nothing is recommended.
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mper.measurement.figures import Figure
from mper.utils.text import short_number

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c2430;max-width:1080px;margin:24px auto;padding:0 20px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:22px 0 6px}
p.lines{color:#51607a;margin:0 0 12px}img{width:100%;border-radius:4px}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:4px 8px;border-bottom:1px solid #dde3ec;
vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap}td.m{color:#51607a;font-size:12.5px}td.s{white-space:nowrap}
ul{margin:4px 0 0 18px;padding:0}footer{color:#51607a;font-size:12.5px;margin-top:22px}
@media print{body{margin:0;max-width:none;font-size:11px}h2{break-after:avoid}tr,img{break-inside:avoid}}
"""
_FOOT = (
    "Each figure states its method and parameters; methods for the same quantity differ, and none of them is a "
    "diagnosis or suggests a therapy. For research; not a medical device."
)
_OUTLIER = 3.5  # of the modified z-score, Iglewicz and Hoaglin 1993
_BINS = 12


@dataclass(frozen=True)
class ReportText:
    """What a report says besides figures and pictures.

    Parameters
    ----------
    title : str
    lines : tuple of str
        Who made the mask (model, version, checksum, editing), its expected quality, the scan.
    notes : tuple of str
        What was decided or noticed while measuring.
    """

    title: str
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def report_page(text: ReportText, figures: Sequence[Figure], pictures: Mapping[str, bytes]) -> str:
    """A report as HTML.

    Parameters
    ----------
    text : ReportText
    figures : sequence of Figure
    pictures : mapping of str to bytes
        PNG by its caption.
    """
    ranged = any(figure.range for figure in figures)
    body = [f"<h1>{_safe(text.title)}</h1>", f"<p class=lines>{'<br>'.join(map(_safe, text.lines))}</p>"]
    for caption, png in pictures.items():
        encoded = base64.b64encode(png).decode("ascii")
        body.append(f'<h2>{_safe(caption)}</h2><img alt="{_safe(caption)}" src="data:image/png;base64,{encoded}">')
    for group in dict.fromkeys(figure.group for figure in figures):
        body.append(f"<h2>{_safe(group)}</h2>")
        body.append(_table([figure for figure in figures if figure.group == group], ranged))
    if ranged:
        body.append(
            "<p class=lines>Range: lowest and highest value over the mask and the masks at probability 0.3 and 0.7, "
            "how much of a figure depends on where the boundary is drawn.</p>"
        )
    if text.notes:
        body.append(f"<h2>Notes</h2><ul>{''.join(f'<li>{_safe(note)}</li>' for note in text.notes)}</ul>")
    return page(text.title, body)


def figures_csv(rows: Sequence[tuple[str, Sequence[Figure]]]) -> str:
    """Figures of many cases as CSV: a row a case, a column a figure with its unit in the head.

    Parameters
    ----------
    rows : sequence of (str, sequence of Figure)
        The name of a case, and its figures; a figure that a case lacks is left empty.
    """
    columns = {figure.key: figure.unit for _, figures in rows for figure in figures}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", *(key if unit == "1" else f"{key} [{unit}]" for key, unit in columns.items())])
    for name, figures in rows:
        values = {figure.key: figure.value for figure in figures}
        cells = (values.get(key) for key in columns)
        writer.writerow([csv_cell(name), *("" if value is None else f"{value:.6g}" for value in cells)])
    return stream.getvalue()


def figure_table_csv(figures: Sequence[Figure]) -> str:
    """The figures of one case as CSV: a row a figure, with range, stages and method."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["key", "name", "value", "unit", "low", "high", "stages", "method"])
    for figure in figures:
        low, high = (f"{end:.6g}" for end in figure.range) if figure.range else ("", "")
        value = "" if figure.value is None else f"{figure.value:.6g}"
        stages = "; ".join(f"{scheme}: stage {stage}" for scheme, stage in (figure.stages or {}).items())
        writer.writerow(
            [figure.key, csv_cell(figure.name), value, figure.unit, low, high, stages, csv_cell(figure.method)]
        )
    return stream.getvalue()


def summary_page(title: str, rows: Sequence[tuple[str, Sequence[Figure]]], failed: Mapping[str, str]) -> str:
    """A page on a cohort: the distribution of each figure, its outliers, and the cases that failed."""
    names = {figure.key: figure for _, figures in rows for figure in figures}
    body = [f"<h1>{_safe(title)}</h1>", f"<p class=lines>{len(rows)} cases measured, {len(failed)} failed</p>"]
    body.append(
        "<table><tr><th>Figure<th class=n>n<th class=n>mean &plusmn; SD<th class=n>median<th class=n>range"
        "<th>Distribution<th>Outliers</tr>"
    )
    for key, figure in names.items():
        cases = [
            (name, each.value)
            for name, figures in rows
            for each in figures
            if each.key == key and each.value is not None
        ]
        if cases:
            body.append(_summary_row(figure, cases))
    body.append(
        f"</table><p class=lines>Outliers: modified z-score above {_OUTLIER:g}, "
        "0.6745 |x - median| / MAD; check their masks first.</p>"
    )
    if failed:
        body.append("<h2>Cases that failed</h2><ul>")
        body += [f"<li>{_safe(name)}: {_safe(reason)}</li>" for name, reason in failed.items()]
        body.append("</ul>")
    return page(title, body)


def outliers(values: Sequence[float]) -> list[int]:
    """Positions of the outliers: ``0.6745 |x - median| / MAD > 3.5`` (Iglewicz and Hoaglin, 1993); none below five."""
    numbers = np.asarray(values, dtype=np.float64)
    distance = np.abs(numbers - np.median(numbers))
    mad = float(np.median(distance))
    if len(numbers) < 5 or mad == 0:
        return []
    return [int(n) for n in np.flatnonzero(0.6745 * distance / mad > _OUTLIER)]


def _table(figures: Sequence[Figure], ranged: bool) -> str:
    staged = any(figure.stages for figure in figures)
    head = ["<th>Figure", "<th class=n>Value"] + (["<th class=n>Range"] if ranged else [])
    head += (["<th>Stage"] if staged else []) + ["<th>Method and parameters"]
    lines = [f"<tr>{''.join(head)}</tr>"]
    areas = {figure.key: figure for figure in figures if figure.key.endswith("_area")}
    extents = {figure.key.removesuffix("_extent") for figure in figures if figure.key.endswith("_extent")}
    for figure in figures:
        if figure.key.removesuffix("_area") in extents:
            continue  # it stands in the row of its extent
        area = areas.get(figure.key.removesuffix("_extent") + "_area")
        value = figure.text() if area is None or area is figure else f"{figure.text()} ({area.text()})"
        cells = [f"<td>{_safe(figure.name)}", f"<td class=n>{_safe(value)}"]
        if ranged:
            ends = "" if figure.range is None else f"{short_number(figure.range[0])} to {short_number(figure.range[1])}"
            cells.append(f"<td class=n>{ends}")
        if staged:
            stages = "<br>".join(f"{_safe(name)}: {_safe(stage)}" for name, stage in (figure.stages or {}).items())
            cells.append(f'<td class="m s">{stages}')
        cells.append(f"<td class=m>{_safe(figure.method)}")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _summary_row(figure: Figure, cases: Sequence[tuple[str, float]]) -> str:
    values = np.array([value for _, value in cases])
    unit = "" if figure.unit == "1" else f" [{figure.unit}]"
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    far = ", ".join(f"{cases[n][0]} ({short_number(cases[n][1])})" for n in outliers(values.tolist()))
    return (
        f"<tr><td>{_safe(figure.name)}{_safe(unit)}<td class=n>{len(values)}"
        f"<td class=n>{short_number(float(values.mean()))} &plusmn; {short_number(sd)}"
        f"<td class=n>{short_number(float(np.median(values)))}"
        f"<td class=n>{short_number(float(values.min()))} to {short_number(float(values.max()))}"
        f"<td>{_histogram(values)}<td class=m>{_safe(far)}</tr>"
    )


def _histogram(values: np.ndarray) -> str:
    counts, _ = np.histogram(values, _BINS)
    top = counts.max()
    bars = "".join(
        f'<rect x="{10 * n}" y="{28 - 26 * count / top:.1f}" width="9" height="{26 * count / top:.1f}"/>'
        for n, count in enumerate(counts.tolist())
    )
    return f'<svg width="{10 * _BINS}" height="28" fill="#4a78b5" role="img">{bars}</svg>'


def csv_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _safe(text: str) -> str:
    return html.escape(text)


def page(title: str, body: Sequence[str], foot: str = _FOOT, style: str = "") -> str:
    """A page of HTML in one file, with the styles of all reports."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>'
        f"<style>{_STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>{foot}</footer>\n</body></html>\n"
    )
