"""The table of a cohort: a row a mask, sorted by a click on a heading, filtered, with pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from MPERLib import formatting
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.widgets import Cell, Table, chosen, fill_box, silent

ALL, CHECK, UNDECIDED = "all", "check", "undecided"  # filters
ACCEPTED, REJECTED, FAILED, WAITING = "accepted", "rejected", "failed", "waiting"
WORST_FIRST = (3, False)  # column, and whether it falls
_MOST_ROWS = 300  # to fill a table of Qt with more blocks the window
_ICON_PX = 40
_RED, _AMBER, _GREEN = "#d03030", "#b06a00", "#2e8b57"
_LEVELS = {"likely wrong": (0, _RED), "failed": (0, _RED), "check": (1, _AMBER), "good": (3, "")}
_MARKS = {"accepted": ("\N{CHECK MARK}", _GREEN), "corrected": ("\N{LOWER RIGHT PENCIL}", _GREEN)}
_MARKS["rejected"] = ("\N{BALLOT X}", _RED)


class CohortTable:
    """Rows of a cohort.

    Parameters
    ----------
    ui : namespace
        Has cohortTable, cohortFilterBox and cohortSearchEdit.
    session : EngineSession
    selected : callable
        Takes the id of the row that the user selects.
    """

    def __init__(self, ui: Any, session: EngineSession, selected: Callable[[str], None]):
        self._ui, self._session, self._selected = ui, session, selected
        self._rows: list[dict[str, Any]] = []
        self._route: Callable[..., str] = lambda *_parts, **_query: ""
        self._cohort = ""
        self._order = WORST_FIRST
        self._icons: dict[str, Any] = {}
        self._requested: set[str] = set()
        self.left_out = 0
        widget = ui.cohortTable
        self._volume = ""
        self._headings()
        widget.iconSize = qt.QSize(_ICON_PX, _ICON_PX)
        widget.verticalHeader().defaultSectionSize = _ICON_PX + 4
        header = widget.horizontalHeader()
        header.setSectionsClickable(True)
        header.showSortIndicator = True
        header.setSortIndicator(self._order[0], qt.Qt.AscendingOrder)
        header.connect("sectionClicked(int)", slot(self._onHeading))
        widget.connect("itemSelectionChanged()", slot(self._onSelected))
        widget.connect("cellClicked(int,int)", slot(self._onSelected))  # also of a row whose mask did not arrive
        fill_box(ui.cohortFilterBox, _filters(), ALL)
        ui.cohortFilterBox.connect("currentIndexChanged(int)", slot(self.show))
        ui.cohortSearchEdit.connect("textChanged(QString)", slot(self.show))

    def _headings(self) -> None:
        headings = (  # short ones: a column is as wide as its heading
            ("", ""),
            (_("Scan"), _("Click to list the scans in their order")),
            (_("mL"), _("Volume of {name} in mL").format(name=self._volume or _("the structure"))),
            (_("Dice"), _("Expected Dice; click to list the worst masks first")),
            ("\N{BLACK FLAG}", _("How many reasons there are to check the mask; they are listed below")),
            (_("s"), _("Time to segment the scan in seconds")),
            ("", _("Your decision: accepted, corrected or rejected; twice where the mask is a label")),
        )
        self._table = Table(self._ui.cohortTable, headings, stretched=1)
        self._ui.cohortTable.horizontalHeader().minimumSectionSize = 20

    # ---- what is shown

    @property
    def keys(self) -> list[str]:
        """The ids of the rows that are shown, from top to bottom."""
        return self._table.keys

    def take(self, cohort: str, rows: list[dict[str, Any]], route: Callable[..., str]) -> None:
        """Show the rows of a cohort; `route` makes routes of it."""
        if cohort != self._cohort:
            self._cohort, self._icons, self._requested = cohort, {}, set()
        self._rows, self._route = rows, route
        structure = next((name for row in rows for name in row["volumes_ml"]), "")
        if structure != self._volume:
            self._volume = structure
            self._headings()
        self.show()

    def show(self, *_changed: object) -> None:
        """Show the rows that the user wants to see, in the order of the heading that was clicked last."""
        wanted, text = chosen(self._ui.cohortFilterBox), str(self._ui.cohortSearchEdit.text).strip().casefold()
        rows = [row for row in self._rows if _matches(row, wanted) and _holds(row, text)]
        column, falling = self._order
        order = {row["id"]: number for number, row in enumerate(self._rows)}
        rows.sort(key=lambda row: _sort_key(row, column, order[row["id"]]), reverse=falling)
        self.left_out = max(0, len(rows) - _MOST_ROWS)
        rows = rows[:_MOST_ROWS]
        bar = self._ui.cohortTable.verticalScrollBar()
        place = bar.value
        self._table.fill([self._cells(row) for row in rows], [row["id"] for row in rows], [_tip(row) for row in rows])
        bar.value = place
        self._fillIcons(rows)

    def _cells(self, row: dict[str, Any]) -> list[str | Cell]:
        colour = _LEVELS.get(row["quality"], (2, ""))[1]
        if row["state"] == "waiting":
            return ["", Cell(row["name"], colour="#888888"), "", "", "", "", ""]
        if row["state"] == "failed":
            return ["", Cell(row["name"], colour=_RED), "", Cell(_("failed"), colour=_RED), "", "", ""]
        mark, shade = _MARKS.get(row["decision"], ("", ""))
        volume = row["volumes_ml"].get(self._volume)
        dice = Cell(formatting.number(row["expected_dice"]), colour=colour)
        seconds = "" if row["seconds"] is None else formatting.number(row["seconds"], 1 if row["seconds"] < 10 else 0)
        flags = str(len(row["flags"])) if row["flags"] else ""
        kept = mark * 2 if row["kept"] else mark
        return ["", row["name"], formatting.number(volume, 1), dice, flags, seconds, Cell(kept, colour=shade)]

    # ---- pictures

    def _fillIcons(self, rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            key = row["id"]
            if key in self._icons:
                self._setIcon(number, self._icons[key])
            elif row["state"] == "done" and key not in self._requested:
                self._requested.add(key)
                take = lambda data, key=key, cohort=self._cohort: self._takeIcon(cohort, key, data)  # noqa: E731
                self._session.getBytes(self._route("thumbnail", mask=key), take, lambda _message: None)

    def engineLost(self) -> None:
        """The engine has stopped: pictures that have not arrived are asked for again."""
        self._requested = set(self._icons)

    def _takeIcon(self, cohort: str, key: str, data: bytes) -> None:
        picture = qt.QPixmap()
        if cohort != self._cohort or not picture.loadFromData(qt.QByteArray(data)):
            return
        scaled = picture.scaled(_ICON_PX, _ICON_PX, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation)
        self._icons[key] = qt.QIcon(scaled)
        if key in self.keys:
            self._setIcon(self.keys.index(key), self._icons[key])

    def _setIcon(self, row: int, icon: Any) -> None:
        item = self._ui.cohortTable.item(row, 0)
        if item is not None:
            item.setIcon(icon)

    # ---- order and selection

    def _onHeading(self, column: int) -> None:
        self._order = (column, not self._order[1] if column == self._order[0] else False)
        order = qt.Qt.DescendingOrder if self._order[1] else qt.Qt.AscendingOrder
        self._ui.cohortTable.horizontalHeader().setSortIndicator(column, order)
        self.show()

    def _onSelected(self) -> None:
        key = self._table.selected()
        if key is not None:
            self._selected(key)

    def selected(self) -> str | None:
        """The id of the selected row."""
        return self._table.selected()

    def select(self, key: str, quietly: bool = False) -> None:
        """Select a row, `quietly` without calling anybody."""
        if quietly:
            with silent(self._ui.cohortTable):
                self._table.select(key)
        else:
            self._table.select(key)

    def step(self, by: int, wanted: Callable[[dict[str, Any]], bool] = lambda row: row["state"] == "done") -> bool:
        """Select the next row that is wanted, above (-1) or below (1) the selected one; whether there is one."""
        found = {row["id"]: row for row in self._rows}
        selected, keys = self.selected(), self.keys
        at = keys.index(selected) if selected in keys else (-1 if by > 0 else len(keys))
        for number in range(at + by, len(keys) if by > 0 else -1, by):
            if wanted(found[keys[number]]):
                self.select(keys[number])
                self._ui.cohortTable.scrollToItem(self._ui.cohortTable.item(number, 1))
                return True
        return False


def _filters() -> list[tuple[str, str]]:
    return [
        (ALL, _("All")),
        (CHECK, _("To check")),
        (UNDECIDED, _("Not decided")),
        (ACCEPTED, _("Accepted or corrected")),
        (REJECTED, _("Rejected")),
        (FAILED, _("Failed")),
        (WAITING, _("Waiting")),
    ]


def _matches(row: dict[str, Any], wanted: str) -> bool:
    done = row["state"] == "done"
    return {
        CHECK: done and (row["quality"] in ("likely wrong", "check") or bool(row["flags"])),
        UNDECIDED: done and row["decision"] == "open",
        ACCEPTED: row["decision"] in ("accepted", "corrected"),
        REJECTED: row["decision"] == "rejected",
        FAILED: row["state"] == "failed",
        WAITING: row["state"] == "waiting",
    }.get(wanted, True)


def _holds(row: dict[str, Any], text: str) -> bool:
    return not text or any(text in part.casefold() for part in (row["name"], *row["flags"], row["error"] or ""))


def _sort_key(row: dict[str, Any], column: int, place: int) -> tuple:
    """Failed scans are the worst; what has no figure yet comes last."""
    waiting = row["state"] == "waiting"
    if column == 2:
        volume = next(iter(row["volumes_ml"].values()), None)
        return (volume is None, volume or 0.0, place)
    if column == 3:
        expected = row["expected_dice"]
        rank = _LEVELS.get(row["quality"], (2, ""))[0]
        figure = expected if expected is not None else row["confidence"] if row["confidence"] is not None else -1.0
        return (waiting, row["state"] != "failed", rank, figure, place)
    if column == 4:
        return (waiting, -len(row["flags"]), place)
    if column == 5:
        return (row["seconds"] is None, row["seconds"] or 0.0, place)
    if column == 6:
        return (waiting, row["decision"], place)
    return (place,)


def _tip(row: dict[str, Any]) -> str:
    lines = [row["scan"]]
    for name, volume in row["volumes_ml"].items():
        lines.append(f"{name}: {formatting.millilitres(volume)}")
    if row["confidence"] is not None:
        lines.append(_("Confidence {share}").format(share=formatting.percent(row["confidence"])))
    if row["decision"] != "open":
        words = {"accepted": _("Accepted"), "corrected": _("Corrected"), "rejected": _("Rejected")}
        when = formatting.date_time(row["when"])
        lines.append(
            _("{decision} by {author}, {when}").format(decision=words[row["decision"]], author=row["author"], when=when)
        )
    if row["kept"]:
        lines.append(_("Label {revision} of {case} in {dataset}").format(**row["kept"]))
    return "\n".join(lines)
