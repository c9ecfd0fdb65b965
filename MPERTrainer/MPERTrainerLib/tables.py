"""A QTableWidget whose rows are known by a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import qt

Row = tuple[str, Sequence[str], Mapping[int, str | None], str]


class Table:
    """Fills a table and keeps its selection.

    Parameters
    ----------
    widget : QTableWidget
    stretched : int
        The column that takes what the others, as wide as their texts, leave.
    """

    def __init__(self, widget, stretched: int):
        self.widget = widget
        self.keys: list[str] = []
        header = widget.horizontalHeader()
        header.stretchLastSection = False
        for column in range(widget.columnCount):
            mode = qt.QHeaderView.Stretch if column == stretched else qt.QHeaderView.ResizeToContents
            header.setSectionResizeMode(column, mode)

    def fill(self, rows: Sequence[Row]) -> None:
        """Show `rows`: key, cells, colours by column, tool tip. Who was selected stays so, and nobody is told."""
        chosen = set(self.allSelected())
        widget = self.widget
        blocked = widget.blockSignals(True)
        widget.setUpdatesEnabled(False)
        try:
            widget.clearSelection()
            widget.rowCount = len(rows)
            self.keys = [row[0] for row in rows]
            for number, (_key, cells, colours, tip) in enumerate(rows):
                for column, text in enumerate(cells):
                    item = qt.QTableWidgetItem(text)
                    if tip:
                        item.setToolTip(tip)
                    if colours.get(column):
                        item.setForeground(qt.QBrush(qt.QColor(colours[column])))
                    widget.setItem(number, column, item)
            for number, key in enumerate(self.keys):
                if key in chosen:
                    self._select(number)
        finally:
            widget.setUpdatesEnabled(True)
            widget.blockSignals(blocked)

    def select(self, key: str) -> None:
        """Select one row, as a click does."""
        if key in self.keys:
            self.widget.selectRow(self.keys.index(key))

    def selected(self) -> str | None:
        """The key of the selected row, None unless there is exactly one."""
        chosen = self.allSelected()
        return chosen[0] if len(chosen) == 1 else None

    def allSelected(self) -> list[str]:
        """The keys of the selected rows, from top to bottom."""
        rows = {index.row() for index in self.widget.selectionModel().selectedRows()}
        return [key for number, key in enumerate(self.keys) if number in rows]

    def _select(self, number: int) -> None:
        flags = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
        model = self.widget.model()
        self.widget.selectionModel().select(model.index(number, 0), flags)
