"""Draws docs/floors.svg: the packages of mper on their floors, as Testing/library/test_levels.py holds them.

Run ``python docs/draw_floors.py`` after a change of ORDER there; Testing/library/test_docs.py compares the two.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "floors.svg"
FLOORS = {
    3: "the programs: command line, engine, Python API",
    2: "networks, training, prediction: torch",
    1: "files, DICOM, datasets, figures of masks: SimpleITK, h5py, highdicom, scipy",
    0: "what all use: standard library and numpy",
}
_ENTRY = ("__init__", "__main__", "api")  # the package's own files of floor 3
_COLUMNS, _WIDTH, _HEIGHT, _GAP, _LEFT = 4, 226, 84, 10, 10
_COLOURS = {0: "#e8eef7", 1: "#e6f2ea", 2: "#fbf1df", 3: "#f7e6e6", "slicer": "#ece8f5"}
_WORDS = {
    "root": "volume, labels, roi, strokes, provenance, progress, resources",
    "api": "the names that import mper offers",
    "MPERSegment": "segment, explain, refine, measure, export",
    "MPERTrainer": "cases, training, comparison, next case",
    "MPERLib": "what both share: MRML, engine session, HTTP client, installation",
}


def boxes(order: dict[str, int]) -> dict[int, list[str]]:
    """The names to draw on each floor, from the ground up: packages, and those of their modules that stand elsewhere.

    The modules of the root are one box, `root`; those of one package on one floor beside it are one box, too.
    """
    drawn: dict[int, list[str]] = {floor: [] for floor in FLOORS}
    for name, floor in order.items():
        package, _, module = name.partition(".")
        if module and order.get(package) == floor:
            continue
        if not module and (ROOT / "mper" / f"{name}.py").exists():
            name = "root" if floor == 0 else "api" if name in _ENTRY else name
        elif module:
            same = [i for i, other in enumerate(drawn[floor]) if other.startswith(f"{package}.")]
            if same:
                drawn[floor][same[0]] += f", .{module}"
                continue
        if name not in drawn[floor]:
            drawn[floor].append(name)
    return drawn


def svg(order: dict[str, int]) -> str:
    """The drawing."""
    drawn = boxes(order)
    parts: list[str] = []
    y = 20
    y = _band(
        parts,
        y,
        "slicer",
        "3D Slicer: slicer, qt, vtk; of mper floor 0 alone; speaks HTTP with the engine",
        ["MPERSegment", "MPERTrainer", "MPERLib"],
    )
    for floor, words in FLOORS.items():
        y = _band(parts, y, floor, f"Floor {floor}: {words}", drawn[floor])
    width = 2 * _LEFT + _COLUMNS * (_WIDTH + _GAP) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" role="img" aria-label="Packages of mper on their floors; imports go down only">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{y}" fill="white"/>', *parts, "</svg>\n"])


def _band(parts: list[str], y: int, floor: int | str, title: str, names: list[str]) -> int:
    """One floor at height `y`; gives the height of the next."""
    rows = -(-len(names) // _COLUMNS)
    height = 34 + rows * (_HEIGHT + _GAP)
    width = _COLUMNS * (_WIDTH + _GAP) + _GAP
    parts.append(f'<g id="floor-{floor}">')
    parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{height}" rx="6" fill="{_COLOURS[floor]}"/>')
    parts.append(f'<text x="{_LEFT + _GAP}" y="{y + 21}" font-size="14" font-weight="bold">{escape(title)}</text>')
    for n, name in enumerate(names):
        x = _LEFT + _GAP + n % _COLUMNS * (_WIDTH + _GAP)
        _box(parts, x, y + 30 + n // _COLUMNS * (_HEIGHT + _GAP), name)
    parts.append("</g>")
    return y + height + 12


def _box(parts: list[str], x: int, y: int, name: str) -> None:
    parts.append(f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="white" stroke="#8a94a6"/>')
    style = 'class="name" font-size="13" font-weight="bold" font-family="monospace"'
    lines = textwrap.wrap(name, 26)
    for n, line in enumerate(lines):
        parts.append(f'<text {style} x="{x + 8}" y="{y + 19 + 15 * n}">{escape(line)}</text>')
    top = y + 36 + 15 * (len(lines) - 1)
    for n, line in enumerate(textwrap.wrap(_summary(name), 34)[: 5 - len(lines)]):
        parts.append(f'<text font-size="11.5" fill="#333" x="{x + 8}" y="{top + 14 * n}">{escape(line)}</text>')


def _summary(name: str) -> str:
    """The first line of the docstring; of several modules in one box why they are there."""
    if name in _WORDS:
        return _WORDS[name]
    if "," in name:
        return f"modules of {name.split('.')[0]} that need more than those below"
    path = ROOT / "mper" / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].replace("`", "").rstrip(".")


def main() -> None:
    sys.path.insert(0, str(ROOT / "Testing" / "library"))
    from test_levels import ORDER

    DRAWING.write_text(svg(ORDER), encoding="utf-8")


if __name__ == "__main__":
    main()
