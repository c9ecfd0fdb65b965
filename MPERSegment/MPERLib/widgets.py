"""Helpers for Qt widgets: tables, combo boxes, the scroll area of the module panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from MPERLib.callbacks import slot
from MPERLib.formatting import sentence

_NOTES_SHOWN = 2
_SWATCH_PX = 16
_MAX_HEIGHT_PX = 320
_KEPT_HEIGHTS = 3  # HfwCacheMaxSize of QWidgetItemV2
_WIDER_THAN_ALL = 10_000  # px


@contextmanager
def silent(widget: Any) -> Iterator[None]:
    """Change a widget inside the block without a signal."""
    blocked = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(blocked)


def reveal(widget: Any) -> None:
    """Scroll the module panel to a widget."""
    area = widget.parent()
    while area is not None and not isinstance(area, qt.QScrollArea):
        area = area.parent()
    if area is not None:
        area.ensureWidgetVisible(widget)


def place_below(frame: Any, widget: Any) -> bool:
    """Move a frame below the row of a section (`ctkCollapsibleButton`) that holds a widget.

    Returns
    -------
    bool
        False, with the frame where it was, if the widget is in no section, or the section is collapsed.
    """
    row, section = widget, widget.parent()
    while section is not None and not isinstance(section, ctk.ctkCollapsibleButton):
        row, section = section, section.parent()
    if section is None or section.collapsed or not isinstance(section.layout(), qt.QVBoxLayout):
        return False
    layout = section.layout()
    at = next((n for n in range(layout.count()) if _holds(layout.itemAt(n), row)), None)
    if at is None:
        return False
    if layout.indexOf(frame) != at + 1:
        move(frame, layout, at + 1 - (0 <= layout.indexOf(frame) < at))
    return True


def move(frame: Any, layout: Any, index: int) -> None:
    """Move a widget to a place in a layout, out of a section, too.

    CTK's sections go on filtering the events of children that have left them, and would hide the widget wherever it is
    while they are collapsed (ctkCollapsibleButton.cpp, childEvent and eventFilter).
    """
    section = frame.parent()
    if isinstance(section, ctk.ctkCollapsibleButton) and section != layout.parent():
        frame.removeEventFilter(section)
    layout.removeWidget(frame)
    layout.insertWidget(index, frame)


def is_above(one: Any, other: Any) -> bool:
    """Whether a visible widget ends above where another one begins."""
    bottom = one.mapToGlobal(qt.QPoint(0, one.height)).y()
    return bool(one.visible and other.visible and bottom <= other.mapToGlobal(qt.QPoint(0, 0)).y())


def gap_in_place_of(widget: Any) -> Any:
    """An empty widget of the same height before another one in its layout."""
    gap = qt.QWidget()
    gap.setFixedHeight(widget.height)
    layout = widget.parent().layout()
    layout.insertWidget(layout.indexOf(widget), gap)
    return gap


def _holds(item: Any, widget: Any) -> bool:
    """Whether an item of a layout is a widget, or a layout that holds it."""
    if item.widget() is not None:
        return item.widget() is widget or item.widget() == widget
    inner = item.layout()
    return inner is not None and any(_holds(inner.itemAt(n), widget) for n in range(inner.count()))


class HeightRefresher(qt.QObject):
    """Keeps a module's widget as high as its contents need after it was taken out of the module panel and put back.

    Slicer takes it out without deleting its item of the layout (qSlicerModulePanel.cxx, removeModule), and Qt tells the
    first item alone that the contents have changed (qlayoutitem.cpp, QWidgetItemV2). So the item that holds the widget
    now would go on answering with heights from before, and rows of the panel would overlap.

    Parameters
    ----------
    widget : QWidget
        Filled by a layout.
    """

    def __init__(self, widget: Any):
        qt.QObject.__init__(self)
        self._widget = widget
        self._width = _WIDER_THAN_ALL
        widget.installEventFilter(self)

    def eventFilter(self, _widget: Any, event: Any) -> bool:
        if event.type() == qt.QEvent.LayoutRequest:
            self._forget()
        return False

    def close(self) -> None:
        """Stop."""
        self._widget.removeEventFilter(self)

    def _forget(self) -> None:
        """Push the heights that the item keeps out, by asking it for those of other widths."""
        holder = self._widget.parent()
        layout = holder.layout() if holder is not None else None
        at = layout.indexOf(self._widget) if layout is not None else -1
        if at >= 0:
            for _kept in range(_KEPT_HEIGHTS):
                self._width += 1
                layout.itemAt(at).heightForWidth(self._width)


class Shortcut:
    """A key of Slicer's main window, until `close`.

    Parameters
    ----------
    keys : str
        "Shift+A", say. In a field for text, letters are text.
    react : callable
    """

    def __init__(self, keys: str, react: Callable[[], object]):
        self._shortcut = qt.QShortcut(qt.QKeySequence(keys), slicer.util.mainWindow())
        self._react = slot(react, f"key {keys}")
        self._shortcut.connect("activated()", self._react)

    def close(self) -> None:
        """Leave the key to others, at once."""
        self._shortcut.disconnect("activated()", self._react)
        self._shortcut.setEnabled(False)  # it is deleted at the next turn
        self._shortcut.deleteLater()


# ---- combo boxes whose entries have an id besides their text


def fill_box(box: Any, entries: Sequence[tuple[str, str]], wanted: str | None) -> None:
    """Fill a combo box with (id, text) without a signal and choose `wanted`, the first entry where it is missing."""
    with silent(box):
        box.clear()
        for key, text in entries:
            box.addItem(text, key)
            box.setItemData(box.count - 1, text, qt.Qt.ToolTipRole)
        if entries:
            box.currentIndex = max(0, box.findData(wanted or ""))


def chosen(box: Any) -> str:
    """The id of the chosen entry, empty where there is none."""
    return str(box.currentData or "") if box.count else ""


# ---- tables


class Cell(NamedTuple):
    """A cell of a table: text, maybe with a swatch (red, green, blue), a tooltip, the colour of its text."""

    text: str
    swatch: Sequence[int] | None = None
    tip: str = ""
    colour: str = ""


class Table:
    """A QTableWidget whose rows are known by keys and whose selection survives filling.

    Parameters
    ----------
    widget : QTableWidget
    headings : sequence of (str, str), optional
        Text and tooltip of each column; without them those of the .ui file stay.
    stretched : int
        The column that takes the width that the others, as wide as their texts, leave.
    fitted : bool
        Make the table as high as its rows, and align all columns but the first to the right.
    tallest : int
        The most pixels that such a table is high; beyond, it scrolls.
    shortest : int or None
        The least pixels; makes also a table that is not fitted as high as its rows.
    """

    def __init__(
        self,
        widget: Any,
        headings: Sequence[tuple[str, str]] = (),
        stretched: int = 0,
        fitted: bool = False,
        tallest: int = _MAX_HEIGHT_PX,
        shortest: int | None = None,
    ):
        self.widget, self._fitted, self._tallest, self._shortest = widget, fitted, tallest, shortest
        self.keys: list[str] = []
        if headings:
            widget.columnCount = len(headings)
        for column, (text, tip) in enumerate(headings):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip)
            widget.setHorizontalHeaderItem(column, item)
        header = widget.horizontalHeader()
        header.highlightSections = False
        header.stretchLastSection = False
        for column in range(widget.columnCount):
            mode = qt.QHeaderView.Stretch if column == stretched else qt.QHeaderView.ResizeToContents
            header.setSectionResizeMode(column, mode)
        if fitted:
            widget.verticalHeader().visible = False
            widget.alternatingRowColors = True
            widget.showGrid = False
            widget.wordWrap = False

    def fill(self, rows: Sequence[Sequence[str | Cell]], keys: Sequence[str] = (), tips: Sequence[str] = ()) -> None:
        """Replace the rows without a signal; `tips` are tooltips of whole rows."""
        selected = set(self.allSelected())
        widget = self.widget
        with silent(widget):
            widget.setUpdatesEnabled(False)
            if keys:
                widget.clearSelection()
            widget.rowCount = len(rows)
            self.keys = list(keys)
            for row, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    tip = tips[row] if tips else ""
                    widget.setItem(row, column, self._item(cell, column, tip))
            for row, key in enumerate(self.keys):
                if key in selected:
                    self._select(row)
            widget.setUpdatesEnabled(True)
        if self._fitted or self._shortest is not None:
            self._fit()

    def append(self, rows: Sequence[Sequence[str | Cell]], keys: Sequence[str], tips: Sequence[str] = ()) -> None:
        """Add rows at the end without a signal."""
        widget, first = self.widget, self.widget.rowCount
        with silent(widget):
            widget.setUpdatesEnabled(False)
            widget.rowCount = first + len(rows)
            self.keys += keys
            for n, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    widget.setItem(first + n, column, self._item(cell, column, tips[n] if tips else ""))
            widget.setUpdatesEnabled(True)
        if self._fitted or self._shortest is not None:
            self._fit()

    def _item(self, cell: str | Cell, column: int, row_tip: str) -> Any:
        text, swatch, tip, colour = cell if isinstance(cell, Cell) else Cell(cell)
        item = qt.QTableWidgetItem(text)
        item.setToolTip(tip or row_tip)
        if swatch is not None:
            item.setIcon(_swatch(swatch))
        if colour:
            item.setForeground(qt.QBrush(qt.QColor(colour)))
        if self._fitted and column:
            item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        return item

    def _fit(self) -> None:
        widget = self.widget
        if self._fitted or widget.wordWrap:
            widget.resizeRowsToContents()
        height = widget.horizontalHeader().sizeHint.height() + 2 * widget.frameWidth + 2
        for row in range(widget.rowCount):
            if height >= self._tallest:  # of thousands of rows the first few fill it
                break
            height += widget.rowHeight(row)
        widget.setFixedHeight(min(max(height, self._shortest or 0), self._tallest))

    # ---- selection, by key

    def select(self, key: str) -> None:
        """Select one row, as a click does."""
        if key in self.keys:
            self.widget.selectRow(self.keys.index(key))

    def selected(self) -> str | None:
        """The key of the selected row, None unless there is exactly one."""
        keys = self.allSelected()
        return keys[0] if len(keys) == 1 else None

    def allSelected(self) -> list[str]:
        """The keys of the selected rows, from top to bottom."""
        if not self.keys:
            return []
        rows = {index.row() for index in self.widget.selectionModel().selectedRows()}
        return [key for row, key in enumerate(self.keys) if row in rows]

    def _select(self, row: int) -> None:
        flags = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
        self.widget.selectionModel().select(self.widget.model().index(row, 0), flags)


def show_notes(label: qt.QLabel, notes: Sequence[str]) -> None:
    """Show the first notes of a list's answer, all of them as tool tip; hide the label where there are none."""
    more = len(notes) - _NOTES_SHOWN
    lines = [sentence(note) for note in notes[:_NOTES_SHOWN]]
    if more > 0:
        lines.append(_("{n} more are skipped; hold the mouse here to see all.").format(n=more))
    label.text = "\n".join(lines)
    label.toolTip = "\n".join(sentence(note) for note in notes)
    label.visible = bool(notes)


def _swatch(colour: Sequence[int]) -> qt.QIcon:
    """A square that keeps its colour in a selected row, which a bare colour does not."""
    square = qt.QPixmap(_SWATCH_PX, _SWATCH_PX)
    square.fill(qt.QColor(*colour))
    icon = qt.QIcon(square)
    icon.addPixmap(square, qt.QIcon.Selected)
    return icon
