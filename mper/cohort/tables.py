"""The tables of a cohort: ``cohort.csv``, and ``summary.html`` with a picture of each mask, the doubtful ones first."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from mper.cohort.manifest import Entry
from mper.utils.files import write_text
from mper.utils.text import duration, short_number
from mper.visualization.report import csv_cell, page

TABLE, SUMMARY, PICTURES = "cohort.csv", "summary.html", "summary_files"
_SHOWN = 1000  # rows of the page; the table holds all
_FOOT = "Masks of a program: a person has to check each of them. For research; not a medical device."
_STYLE = "td img{width:96px;background:#000}td.bad{color:#b3261e}td.check{color:#8a5a00}"
_LEVELS = ("failed", "likely wrong", "check", "", "good")  # the doubtful ones first
_CLASSES = {0: "bad", 1: "bad", 2: "check"}  # of a level, by its place

Row = dict[str, Any]


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """A row for each mask, and for each scan that failed.

    Parameters
    ----------
    entries : sequence of dict
        As in the manifest.

    Returns
    -------
    list of dict
        scan, mask (relative to the folder of the results; None where the scan failed), phase, quality, flags (list of
        str: why to look at it), volumes_ml (by structure), confidence, expected_dice, seconds, edited, error.
    """
    rows = []
    for entry in entries:
        if "error" in entry:
            rows.append(_row(entry, {}, entry["error"]))
        else:
            rows += [_row(entry, result, None) for result in entry["results"]]
    return rows


def quality_of(result: Mapping[str, Any]) -> str:
    """The level of quality that a result states; else ``check`` where it has flags, and nothing where it has none."""
    stated = result.get("quality")
    if isinstance(stated, Mapping):
        stated = stated.get("level")
    if isinstance(stated, str) and stated:
        return stated.replace("_", " ")
    return "check" if result.get("flags") else ""


def _reasons(result: Mapping[str, Any]) -> list[str]:
    """Why a person should look at a mask: its flags, and what its expected quality rests on where that is low."""
    flags = [str(flag["words"]) for flag in result.get("flags", ())]
    stated = result.get("quality")
    reasons = stated.get("reasons", ()) if isinstance(stated, Mapping) and stated.get("level") != "good" else ()
    return [*dict.fromkeys([*flags, *map(str, reasons)])]


def _expected(result: Mapping[str, Any]) -> float | None:
    stated = result.get("quality")
    found = stated.get("expected_dice") if isinstance(stated, Mapping) else None
    return float(found) if isinstance(found, (int, float)) else None


def table_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV; a column for the volume of each structure."""
    structures = _structures(rows)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    volumes = [f"{name} [mL]" for name in structures]
    head = [
        "scan",
        "mask",
        "phase",
        "quality",
        "flags",
        *volumes,
        "expected Dice",
        "confidence",
        "edited",
        "seconds",
        "error",
    ]
    writer.writerow([csv_cell(name) for name in head])
    for row in rows:
        cells = [row["scan"], row["mask"], row["phase"], row["quality"], "; ".join(row["flags"])]
        cells += [_number(row["volumes_ml"].get(name)) for name in structures]
        cells += [_number(row["expected_dice"]), _number(row["confidence"])]
        cells += ["yes" if row["edited"] else "", _number(row["seconds"]), row["error"]]
        writer.writerow([csv_cell("" if cell is None else str(cell)) for cell in cells])
    return stream.getvalue()


def summary_page(header: Entry, rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """The page of a cohort.

    Parameters
    ----------
    header : dict
        Of the manifest.
    rows : sequence of dict
    pictures : mapping of str to str
        By mask, the path of its picture relative to the page, for those that have one.
    """
    model, failed = header["model"], [row for row in rows if row["error"]]
    title = f"Cohort: {len({row['scan'] for row in rows})} scans"
    options = ", ".join(f"{name} {value}" for name, value in header["options"].items() if value not in (None, False))
    software = ", ".join(f"{name} {version}" for name, version in header["software"].items())
    lines = [
        f"Model {model['name']} {model['version']}, sha256 {model['sha256']}",
        f"Options: {options or 'none'}",
        f"{software}; started {header['started'][:19]} UTC",
        f"{len(rows) - len(failed)} masks, {sum(_rank(row) < 3 for row in rows) - len(failed)} to check, "
        f"{len(failed)} scans failed",
    ]
    body = [f"<h1>{html.escape(title)}</h1>", f"<p class=lines>{'<br>'.join(map(html.escape, lines))}</p>"]
    body += _statistics(rows)
    structures = _structures(rows)
    heads = "".join(f"<th class=n>{html.escape(name)} [mL]" for name in structures)
    heads = f"<th>Scan<th>Quality<th class=n>Expected Dice{heads}<th class=n>Confidence<th>To check"
    body.append(f"<h2>Masks</h2><table><tr><th>{heads}</tr>")
    shown = sorted(rows, key=_doubt)
    body += [_page_row(row, structures, pictures.get(row["mask"])) for row in shown[:_SHOWN]]
    body.append("</table>")
    if len(shown) > _SHOWN:
        body.append(f"<p class=lines>The first {_SHOWN} of {len(shown)} rows; {TABLE} holds all.</p>")
    return page(title, body, _FOOT, _STYLE)


def write_tables(folder: Path, header: Entry, entries: Sequence[Entry]) -> None:
    """Write table and page into the folder of the results."""
    rows = rows_of(entries)
    names = {row["mask"]: f"{PICTURES}/{picture_name(row['mask'])}" for row in rows if row["mask"]}
    pictures = {mask: quote(name) for mask, name in names.items() if (folder / name).is_file()}
    write_text(folder / TABLE, table_csv(rows))
    write_text(folder / SUMMARY, summary_page(header, rows, pictures))


def _row(entry: Entry, result: Mapping[str, Any], error: str | None) -> Row:
    mask = None if error else PurePosixPath(entry["key"]).with_name(PurePath(result["mask"]).name).as_posix()
    edited = entry.get("edited")  # the names of the files; an older version only says that one of them was
    return {
        "scan": entry["input"],
        "mask": mask,
        "phase": result.get("phase"),
        "quality": "failed" if error else quality_of(result),
        "flags": _reasons(result),
        "line_codes": entry.get("line_codes", {}),
        "volumes_ml": result.get("volumes_ml", {}),
        "confidence": result.get("confidence"),
        "expected_dice": _expected(result),
        "seconds": result.get("seconds"),
        "edited": edited is True or mask in (edited or ()),
        "error": error,
    }


def picture_name(mask: str) -> str:
    """The name of the picture of a mask, a path below the folder of the results."""
    return f"{mask.removesuffix('.seg.nrrd')}.png"


def _doubt(row: Row) -> tuple[float, ...]:
    """What the rows of the page are sorted by: the level, then the Dice to expect, then flags and confidence."""
    expected = 1.0 if row["expected_dice"] is None else row["expected_dice"]
    return _rank(row), expected, -len(row["flags"]), row["confidence"] or 0.0


def _rank(row: Row) -> int:
    return _LEVELS.index(row["quality"]) if row["quality"] in _LEVELS else 3


def _structures(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["volumes_ml"]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _statistics(rows: Sequence[Row]) -> list[str]:
    """Mean, spread and range of each volume, and of the confidence."""
    columns = {f"{name} [mL]": [row["volumes_ml"].get(name) for row in rows] for name in _structures(rows)}
    columns["expected Dice"] = [row["expected_dice"] for row in rows]
    columns["confidence"] = [row["confidence"] for row in rows]
    columns["seconds a mask"] = [row["seconds"] for row in rows]
    lines = ["<table><tr><th><th class=n>n<th class=n>mean &plusmn; SD<th class=n>median<th class=n>range</tr>"]
    for name, found in columns.items():
        values = [value for value in found if value is not None]
        if values:
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            lines.append(
                f"<tr><td>{html.escape(name)}<td class=n>{len(values)}"
                f"<td class=n>{short_number(statistics.fmean(values))} &plusmn; {short_number(sd)}"
                f"<td class=n>{short_number(statistics.median(values))}"
                f"<td class=n>{short_number(min(values))} to {short_number(max(values))}</tr>"
            )
    return [*lines, "</table>"] if len(lines) > 1 else []


def _page_row(row: Row, structures: Sequence[str], picture: str | None) -> str:
    image = f'<img loading="lazy" alt="" src="{html.escape(picture)}">' if picture else ""
    phase = "" if row["phase"] is None else f"<br>phase {row['phase']}"
    time = "" if row["seconds"] is None else f"<br>{duration(row['seconds'])}"
    edited = "<br>edited since" if row["edited"] else ""
    name = row["mask"].removesuffix(".seg.nrrd") if row["mask"] else PurePath(row["scan"]).name
    rank = _rank(row)
    figures = [row["expected_dice"], *(row["volumes_ml"].get(name) for name in structures), row["confidence"]]
    digits = [2, *[1] * len(structures), 2]
    texts = ["" if value is None else f"{value:.{n}f}" for value, n in zip(figures, digits, strict=True)]
    cells = [
        f"<td>{image}",
        f'<td title="{html.escape(row["scan"])}">{html.escape(name)}{phase}{edited}{time}',
        f'<td class="{_CLASSES.get(rank, "")}">{html.escape(row["quality"])}',
        *(f"<td class=n>{text}" for text in texts),
        f"<td class=m>{html.escape(row['error'] or '; '.join(row['flags']))}",
    ]
    return f"<tr>{''.join(cells)}</tr>"
