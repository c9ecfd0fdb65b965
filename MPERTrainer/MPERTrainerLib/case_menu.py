"""The menu of the selected cases: rename, exclude or include, remove; and adding a structure to the dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from MPERLib import settings
from MPERLib.callbacks import slot
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext
from MPERLib.questions import agreed, textOf
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset


class CaseMenu:
    """The button *More*, and the button that adds a structure.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    selected : callable
        Returns the ids of the selected cases.
    closed : callable
        Takes the id of a case that is removed, before that: it must not stay open.
    """

    def __init__(
        self,
        context: PanelContext,
        session: EngineSession,
        dataset: OpenDataset,
        selected: Callable[[], list[str]],
        closed: Callable[[str], object],
    ):
        self._context, self._session, self._dataset = context, session, dataset
        self._selected, self._closed = selected, closed
        ui = context.ui
        self._menu = qt.QMenu(ui.caseMenuButton)
        self.actions: dict[str, Any] = {}
        for name, text, method in (
            ("rename", _("Rename\N{HORIZONTAL ELLIPSIS}"), self.rename),
            ("exclude", _("Exclude from training"), lambda: self.exclude(True)),
            ("include", _("Include again"), lambda: self.exclude(False)),
            ("remove", _("Remove\N{HORIZONTAL ELLIPSIS}"), self.remove),
        ):
            action = self.actions[name] = self._menu.addAction(text)
            action.connect("triggered()", slot(method))
        ui.caseMenuButton.connect("clicked()", slot(self._open))
        ui.addStructureButton.connect("clicked()", slot(self.addStructure))

    def close(self) -> None:
        self._menu.close()

    def show(self) -> None:
        """Offer what can be done with the selected cases."""
        ui, cases = self._context.ui, self._cases()
        free = [case for case in cases if not self._dataset.isHeldOut(case["id"])]
        excluded = [case for case in cases if case.get("excluded")]
        ui.caseMenuButton.enabled = bool(cases)
        ui.addStructureButton.enabled = self._dataset.id is not None
        self.actions["rename"].setEnabled(len(cases) == 1 and "error" not in cases[0])
        self.actions["exclude"].setEnabled(len(free) == len(cases) and len(excluded) < len(cases))
        self.actions["include"].setEnabled(bool(excluded))
        self.actions["remove"].setEnabled(bool(cases) and len(free) == len(cases))

    def _open(self) -> None:
        self.show()
        button = self._context.ui.caseMenuButton
        self._menu.popup(button.mapToGlobal(qt.QPoint(0, button.height)))

    def _cases(self) -> list[dict]:
        return [case for case in map(self._dataset.case, self._selected()) if case is not None]

    def _author(self) -> str:
        author = str(self._context.ui.authorEdit.text).strip() or settings.setting(settings.AUTHOR_KEY)
        return author or _("unknown")

    def rename(self) -> None:
        """Ask for another display name of the selected case."""
        (case,) = self._cases()[:1] or ({},)
        if not case:
            return
        question = _("Name of {case}. Its folder keeps its name; without a name it is shown by that.")
        name = textOf(question.format(case=case["id"]), _("Rename a case"), self._dataset.nameOf(case["id"]))
        if name is not None:
            name = "" if name == case["id"] else name
            path = self._dataset.route("cases", case["id"], "name")
            self._session.put(path, {"name": name, "author": self._author()}, self._refresh)

    def exclude(self, excluded: bool) -> None:
        """Exclude the selected cases from training, or include them again."""
        cases = [case["id"] for case in self._cases() if bool(case.get("excluded")) != excluded]
        body = {"excluded": excluded, "author": self._author()}
        self._each(
            cases,
            lambda case, of, done: self._session.put(self._dataset.route("cases", case, "excluded", of=of), body, done),
        )

    def remove(self) -> None:
        """Move the selected cases to the recycle folder, once the user has confirmed it."""
        cases = [case["id"] for case in self._cases()]
        question = _(
            "Remove from the dataset: {cases}?\n\nScan and labels are moved to the folder 'recycled' of the dataset; "
            "nothing is deleted. Models that were trained on them stay."
        )
        if not cases or not agreed(question.format(cases=", ".join(cases)), _("Remove cases")):
            return
        for case in cases:
            self._closed(case)
        self._each(
            cases,
            lambda case, of, done: self._session.delete(
                self._dataset.route("cases", case, of=of, author=self._author()), done, self._failed
            ),
        )

    def addStructure(self) -> None:
        """Ask for a structure, and add it to the dataset."""
        question = _(
            "Name of the structure, for example RA. The labels that are there show none of it: draw it in every case."
        )
        name = textOf(question, _("Add a structure"))
        if name:
            body = {"label": name, "author": self._author()}
            self._session.post(self._dataset.route("labels"), body, self._refresh)

    def _each(self, cases: list[str], send: Callable[[str, str | None, Callable[[Any], None]], object]) -> None:
        """Send a request for one case after the other; the first that fails ends it.

        `send` takes the case, its dataset, as another one may be open by now, and what is called after it.
        """
        if not cases:
            return
        rest, of = list(cases), self._dataset.id

        def following(_answer: Any = None) -> None:
            if rest:
                send(rest.pop(0), of, following)
            else:
                self._refresh()

        following()

    def _failed(self, message: str) -> None:
        self._context.showMessage(message)
        self._dataset.refresh()

    def _refresh(self, _answer: Any = None) -> None:
        self._dataset.refresh()
