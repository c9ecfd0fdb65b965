"""Every text of both panels passes through the translation: with a made-up language, none is left in English."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
from MPERLib import mrml, segmentation_node

from mper.labels import make_label

OPEN, CLOSE = "\u27e6", "\u27e7"  # what the made-up language puts around each text
TEXTS = ("text", "title", "toolTip", "placeholderText", "specialValueText", "prefix", "suffix")

pytestmark = pytest.mark.skipif("host.scripted" not in sys.modules, reason="a real Slicer has languages of its own")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer in a language in which each text stands in brackets."""
    from host import scripted

    monkeypatch.setattr(scripted, "translate", lambda _context, text: f"{OPEN}{text}{CLOSE}" if text.strip() else text)


def texts(panel: Any) -> Iterator[tuple[str, str]]:
    """All texts of a panel's widgets: (widget and property, text)."""
    for name, widget in vars(panel.ui).items():
        for kind in TEXTS:
            value = getattr(widget, kind, None)
            if isinstance(value, str) and not (kind == "text" and hasattr(widget, "cursorPosition")):  # typed by a user
                yield f"{name}.{kind}", value
        if hasattr(widget, "itemText"):
            yield from ((f"{name}, entry", widget.itemText(n)) for n in range(widget.count))
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
    window.events()
    assert untranslated(panel, (data + words).casefold()) == []


def test_a_text_that_is_not_translated_is_found(foreign: None) -> None:
    from slicer.i18n import tr

    label, button = SimpleNamespace(text=tr("Scans: {n}").format(n=3)), SimpleNamespace(text="Plain words")
    panel = SimpleNamespace(ui=SimpleNamespace(label=label, button=button))
    assert untranslated(panel, "") == [("button.text", "Plain words")]
    assert untranslated(panel, "plain words of a model") == []
