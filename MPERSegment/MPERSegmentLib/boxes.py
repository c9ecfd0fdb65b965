"""Combo boxes whose entries have an id besides their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt


def fill(box: Any, entries: Sequence[tuple[str, str]], wanted: str) -> None:
    """Put (id, text) into a box without a signal and choose one, the first where it is not among them."""
    blocked = box.blockSignals(True)
    box.clear()
    for key, text in entries:
        box.addItem(text, key)
        box.setItemData(box.count - 1, text, qt.Qt.ToolTipRole)
    if entries:
        box.currentIndex = max(0, box.findData(wanted))
    box.blockSignals(blocked)


def chosen(box: Any) -> str:
    """The id of what is chosen, empty where nothing is."""
    return str(box.currentData or "") if box.count else ""
