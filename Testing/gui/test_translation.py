"""Every text of both panels passes through the translation: with a made-up language, none is left in English."""

from __future__ import annotations

import ast
import json
import re
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qt
import slicer
from MPERLib import engine_lines, engine_words, mrml, segmentation_node

import mper
from mper.labels import make_label
from mper.models.calibration import REASONS
from mper.utils.coded import Coded, joined, with_codes

OPEN, CLOSE = "\u27e6", "\u27e7"  # what the made-up language puts around each text
TEXTS = ("text", "title", "toolTip", "placeholderText", "specialValueText", "prefix", "suffix")

pytestmark = pytest.mark.skipif("host.scripted" not in sys.modules, reason="a real Slicer has languages of its own")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slicer in a language in which each text stands in brackets."""
    from host import scripted

    monkeypatch.setattr(scripted, "translate", lambda _context, text: f"{OPEN}{text}{CLOSE}" if text.strip() else text)
    engine_lines.words.cache_clear()
    yield
    engine_lines.words.cache_clear()


def texts(panel: Any) -> Iterator[tuple[str, str]]:
    """All texts of a panel's widgets: (widget and property, text)."""
    for name, widget in vars(panel.ui).items():
        for kind in TEXTS:
            value = getattr(widget, kind, None)
            if isinstance(value, str) and not (kind == "text" and hasattr(widget, "cursorPosition")):  # typed by a user
                yield f"{name}.{kind}", value
        if hasattr(widget, "itemText"):
            yield from ((f"{name}, entry", widget.itemText(n)) for n in range(widget.count))
            tips = (widget.itemData(n, qt.Qt.ToolTipRole) for n in range(widget.count))
            yield from ((f"{name}, tip of an entry", str(tip)) for tip in tips if tip)
        if hasattr(widget, "horizontalHeaderItem"):
            heads = (widget.horizontalHeaderItem(n) for n in range(widget.columnCount))
            for head in filter(None, heads):
                yield from ((f"{name}, column", head.text()), (f"{name}, column", head.toolTip()))


def untranslated(panel: Any, data: str) -> list[tuple[str, str]]:
    """Texts with words that are neither in the made-up language nor data: names of models, cases, folders, numbers."""

    def english(text: str) -> bool:
        outside = re.sub(r"<[^>]*>", "", text)
        while f"{OPEN}" in outside:
            shorter = re.sub(f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}", "", outside)
            if shorter == outside:
                return True
            outside = shorter
        rest = [word for word in re.findall(r"[^\W\d_]{3,}", outside) if word.casefold() not in data]
        return bool(rest)

    return [(where, text) for where, text in texts(panel) if english(text)]


def dataset_in(folder: Path) -> None:
    """A dataset with a labelled case and one without a label."""
    from mper.datasets.dataset import Dataset
    from mper.volume import Geometry, Volume

    dataset = Dataset.create(folder / "Atria", "Atria", [make_label(1, "LA")])
    grid = Geometry(np.diag([2.0, 2.0, 2.0, 1.0]), (12, 14, 16))
    image = np.arange(12 * 14 * 16, dtype=np.int16).reshape(grid.shape)
    for n in (1, 2):
        case = dataset.add_case(f"case-00{n}", Volume(image + n, grid), {"format": "synthetic"})
    case.add_label(Volume((image > 2000).astype(np.uint8), grid), author="reader", how="hand")
    dataset.add_to_split("train", ["case-001", "case-002"])


def test_every_text_of_both_panels_is_translated(
    window: Any, shared_engine: Any, foreign: None, tmp_path: Path
) -> None:
    array = np.zeros((4, 5, 6), np.int16)
    scan = mrml.show_scan(array, np.eye(4), "scan", slicer.mrmlScene)
    node = segmentation_node.show_mask(array[:1].astype(np.uint8) + 1, (0, 0, 0), [make_label(1, "LA")], scan, "scan")
    panel = window.open("MPERSegment")
    window.wait_until(lambda: panel.session.ready, 60, "the engine")
    panel.ui.resultSelector.setCurrentNode(node)
    panel.ui.inputSelector.setCurrentNode(scan)
    window.click(panel.ui.segmentButton)
    window.wait_until(lambda: panel.ui.messageFrame.visible, 60, "why an empty scan is not segmented")
    assert panel.ui.messageLabel.text.startswith(f"{OPEN}The scan is empty: every voxel is 0.{CLOSE}")
    words = "scan reader hand atria case label utah decaaf"  # data, and names of scales
    data = json.dumps([panel.session.models, panel.session.engine.info, str(tmp_path)], ensure_ascii=False)
    window.events()
    assert untranslated(panel, (data + words).casefold()) == []

    dataset_in(tmp_path)
    panel = window.open("MPERTrainer")
    window.wait_until(lambda: panel.session.ready, 60, "the engine")
    panel.datasetPanel.openFolder(str(tmp_path / "Atria"))
    window.wait_until(lambda: panel.ui.casesTable.rowCount, 20, "the cases")
    panel.ui.casesTable.cellDoubleClicked(1, 1)
    window.wait_until(lambda: panel.labelPanel.segmentation is not None, 20, "the case")
    window.wait_until(lambda: panel.trainingPanel.plan, 20, "the plan")
    window.click(panel.ui.saveLabelButton)
    assert panel.ui.messageFrame.visible and panel.ui.messageLabel.text.startswith(OPEN)
    assert untranslated(panel, (data + words).casefold()) == []


def codes_of_the_library() -> dict[str, list[set[str] | None]]:
    """The codes in the library's source, with the names of their values at each place; None: not written there."""
    found: dict[str, list[set[str] | None]] = {f"evidence-{name}": [set()] for name in REASONS}
    kinds = {"Coded", "InvalidRequest", "Unauthorized", "Forbidden", "NotFound", "Conflict"}
    for file in Path(mper.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds and len(node.args) > 1:
                values = {each.arg for each in node.keywords}
                given = node.args[1]
                for each in (given.body, given.orelse) if isinstance(given, ast.IfExp) else ast.walk(given):
                    if isinstance(each, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z]+)*", str(each.value)):
                        names = None if None in values else {str(name) for name in values}
                        found.setdefault(str(each.value), []).append(names)
    return found


def test_every_code_of_the_library_has_words_that_need_no_other_values() -> None:
    words = {**engine_lines.words(), "joined": ""}
    known = codes_of_the_library()
    assert len(known) > 100
    parts = {"uncertain-", "border", "outside", "-size-unknown", "evidence-"}  # of codes that are put together
    assert sorted(set(known) - set(words) - parts) == []
    for code, places in known.items():
        fields = {name for _, name, _, _ in string.Formatter().parse(words.get(code, "")) if name} - {"time"}
        assert all(values is None or fields <= values for values in places), (code, fields, places)


def test_lines_of_an_answer_are_put_into_words_wherever_they_stand(foreign: None) -> None:
    reason = Coded("the model is unsure of the boundary", "evidence-confidence")
    flag = Coded(f"check: {reason} and free text", "quality-check", dice="0.65", low="0.4", high="0.8")
    flag.values["reasons"] = joined([reason, "free text"], " and ")
    later = Coded("a line of a later version", "later")
    answer = {"flags": [{"code": "quality", "words": flag}], "quality": {"level": "check", "reasons": [reason]}}
    sent = json.loads(json.dumps(with_codes({**answer, "notes": [flag, later], "n": 1})))
    shown = json.loads(json.dumps(sent), object_hook=engine_words.in_words)
    assert shown["quality"] == {"level": "check", "reasons": [f"{OPEN}{reason}{CLOSE}"]}
    assert shown["flags"][0]["words"] == shown["notes"][0]
    both = f"{OPEN}{reason}{CLOSE}{OPEN} and {CLOSE}free text"
    assert shown["notes"] == [f"{OPEN}check (expected Dice 0.65, 0.4 to 0.8): {both}{CLOSE}", later]
    assert (shown["n"], engine_words.in_words(shown)) == (1, shown)  # a stored result is put into words again


# Calls whose texts a user reads, and those whose texts are names for a report of slow callbacks.
TOLD = {"showMessage", "showStatusMessage", "_say", "_message", "_fail", "_failed", "fail", "failed", "sentence"}
NAMED = {"later", "after", "slot", "report_exception", "_next"}
NO_TEXTS = {  # of the library, of Slicer and of files
    *("likely wrong", "late gadolinium", "left ventricle", "volume loaded in Slicer", "SNOMED CT", "MPER export"),
    *("Binary labelmap", "Closed surface", "Conversion method", "SurfaceNets smoothing", "Application Support"),
    *("Installing collected packages", "The MPER contributors", "Active Learning", "space directions: "),
    *("kinds: domain domain domain", "space origin: "),
    *("PythonSlicer", "callbacks: none yet", ", of which ", " ms; the slowest:"),  # of a report for developers
}


def plain_texts(source: str) -> list[str]:
    """Texts in a module's source that people would read in English: of several words, or given to a message."""
    known: set[int] = set()
    told: set[int] = set()

    def mark(into: set[int], parts: Iterable[ast.AST]) -> None:
        into.update(id(each) for part in parts for each in ast.walk(part))

    tree = ast.parse(source)
    for node in ast.walk(tree):
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        described = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        tested = isinstance(node, ast.ClassDef) and node.name.endswith("Test")
        if name in ("_", "tr", "get", "removeprefix", "findall"):
            mark(known, node.args)
        elif name in NAMED:
            known.update(id(each) for each in node.args)
        elif name in TOLD or isinstance(node, ast.Raise):
            mark(told, [node])
        elif isinstance(node, ast.Dict):
            mark(known, filter(None, node.keys))
        elif isinstance(node, ast.Subscript):
            mark(known, [node.slice])
        elif described or tested or isinstance(node, ast.Compare):
            mark(known, [node])
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in known:
            continue
        several = re.search(r"[^\W\d_]{2,},? [^\W\d_]{2,}", node.value)
        code = node.value in NO_TEXTS or re.search(r"\.\+|\(\?P<|\|\w+\||import |</?span", node.value)
        if not code and (several or (id(node) in told and re.search(r"[^\W\d_]{3,}", node.value))):
            found.append((node.lineno, node.value))
    return [f"{line}: {text}" for line, text in sorted(found)]


def test_no_text_of_a_message_passes_by_the_translation() -> None:
    home = Path(engine_words.__file__).parents[1]
    files = [file for module in (home, home.parent / "MPERTrainer") for file in module.rglob("*.py")]
    assert len(files) > 100
    assert {file.name: texts for file in files if (texts := plain_texts(file.read_text(encoding="utf-8")))} == {}
    source = """
def f(context, name, error):
    "What it does."
    context.showMessage(_("Translated {n}.").format(n=1) + "Saved")
    later(f, "name of a callback")
    text = {"key of a table": "two words"}
    raise ValueError(f"{name} failed")
"""
    assert plain_texts(source) == ["4: Saved", "6: two words", "7:  failed"]


def test_a_text_that_is_not_translated_is_found(foreign: None) -> None:
    from slicer.i18n import tr

    label, button = SimpleNamespace(text=tr("Scans: {n}").format(n=3)), SimpleNamespace(text="Plain words")
    panel = SimpleNamespace(ui=SimpleNamespace(label=label, button=button))
    assert untranslated(panel, "") == [("button.text", "Plain words")]
    assert untranslated(panel, "plain words of a model") == []
