"""A QTableWidget that holds small, fixed tables: text right-aligned but for the first column, with a colour swatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import qt

_SWATCH_PX = 16


class Cell(NamedTuple):
    """A cell that is more than text: with a swatch of a colour (red, green, blue) before it, or with a tooltip."""

    text: str
    colour: Sequence[int] | None = None
    tip: str = ""


class Table:
    """Rows of text.

    Parameters
    ----------
    widget : QTableWidget
    headings : sequence of (str, str)
        The text of each column's head, and its tooltip.
    """

    def __init__(self, widget: Any, headings: Sequence[tuple[str, str]]):
        self.widget = widget
        widget.columnCount = len(headings)
        for column, (text, tip) in enumerate(headings):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip)
            widget.setHorizontalHeaderItem(column, item)
        widget.verticalHeader().visible = False
        header = widget.horizontalHeader()
        header.highlightSections = False
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        widget.alternatingRowColors = True
        widget.showGrid = False
        widget.wordWrap = False

    def fill(self, rows: Sequence[Sequence[str | Cell]]) -> None:
        """Replace the rows, and make the table as high as they need."""
        widget = self.widget
        blocked = widget.blockSignals(True)
        widget.rowCount = len(rows)
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                text, colour, tip = cell if isinstance(cell, Cell) else Cell(cell)
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip)
                if colour is not None:
                    item.setIcon(_swatch(colour))
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                widget.setItem(row, column, item)
        widget.blockSignals(blocked)
        widget.resizeRowsToContents()
        height = widget.horizontalHeader().sizeHint.height() + 2 * widget.frameWidth + 2
        height += sum(widget.rowHeight(row) for row in range(len(rows)))
        widget.setMinimumHeight(min(height, 320))
        widget.setMaximumHeight(min(height, 320))


def _swatch(colour: Sequence[int]) -> qt.QIcon:
    """A square that keeps its colour in a selected row, which a bare colour does not."""
    square = qt.QPixmap(_SWATCH_PX, _SWATCH_PX)
    square.fill(qt.QColor(*colour))
    icon = qt.QIcon(square)
    icon.addPixmap(square, qt.QIcon.Selected)
    return icon
