"""A QTableWidget that holds small, fixed tables: text right-aligned but for the first column, with a colour swatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt


class Table:
    """Rows of text. A cell is a string, or a pair of text and colour (red, green, blue) for a swatch before it.

    Parameters
    ----------
    widget : QTableWidget
    headings : sequence of str
    """

    def __init__(self, widget: Any, headings: Sequence[str]):
        self.widget = widget
        widget.columnCount = len(headings)
        widget.setHorizontalHeaderLabels(list(headings))
        widget.verticalHeader().visible = False
        header = widget.horizontalHeader()
        header.highlightSections = False
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        widget.alternatingRowColors = True
        widget.showGrid = False
        widget.wordWrap = False

    def fill(self, rows: Sequence[Sequence[Any]]) -> None:
        """Replace the rows, and make the table as high as they need."""
        widget = self.widget
        blocked = widget.blockSignals(True)
        widget.rowCount = len(rows)
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                text, colour = cell if isinstance(cell, tuple) else (cell, None)
                item = qt.QTableWidgetItem(text)
                if colour is not None:
                    item.setData(qt.Qt.DecorationRole, qt.QColor(*colour))
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                widget.setItem(row, column, item)
        widget.blockSignals(blocked)
        widget.resizeRowsToContents()
        height = widget.horizontalHeader().sizeHint.height() + 2 * widget.frameWidth + 2
        height += sum(widget.rowHeight(row) for row in range(len(rows)))
        widget.setMinimumHeight(min(height, 320))
        widget.setMaximumHeight(min(height, 320))
