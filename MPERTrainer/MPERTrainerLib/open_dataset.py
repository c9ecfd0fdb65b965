"""The dataset that all panels work on: its description, its cases, and the versions of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from MPERLib import settings
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext

_PAGE = 100  # cases that are read at once


class OpenDataset:
    """The dataset that is open, or none.

    Its cases are read in pages, the first at once, others by `more`; `case` also knows those that `withCase` has read.

    Parameters
    ----------
    context : PanelContext
        The id is stored with the scene.
    session : EngineSession

    Attributes
    ----------
    about : dict or None
        The answer to ``GET /datasets/ID``.
    cases : list of dict
        The pages of ``GET /datasets/ID/cases`` that were read, of the cases with `filter` in id or name.
    filter : str
    complete : bool
        Whether `cases` are all of them.
    """

    def __init__(self, context: PanelContext, session: EngineSession):
        self._context, self._session = context, session
        self.about: dict | None = None
        self.cases: list[dict] = []
        self.filter = ""
        self.complete = True
        self._known: dict[str, dict] = {}  # cases by their ids, also of other pages
        self._opened: str | None = None  # the case that is being edited, whichever pages were read
        self._page = 0  # counts the requests for pages: only the answer to the last one is taken
        self._about = 0  # counts the descriptions that were read, likewise
        self._waitsForPage: list[Callable[[], object]] | None = None
        self._pageListeners: list[Callable[[list[dict]], None]] = []
        self._wanted: str | None = None
        self._listeners: list[Callable[[], None]] = []
        self._waiting: list[Callable[[], None]] = []  # listeners that were not called yet
        self._lostListeners: list[Callable[[], None]] = []

    # ---- what is known

    @property
    def id(self) -> str | None:
        return self.about["id"] if self.about else None

    @property
    def labels(self) -> list[dict]:
        """The structures, with values, colours and codes."""
        return self.about["labels"] if self.about else []

    @property
    def holdout(self) -> str | None:
        """The name of the locked hold-out split, None if none is locked."""
        return self.about["holdout"] if self.about else None

    @property
    def lockedSplits(self) -> list[str]:
        """The splits of the hold-outs: the first, and the second one."""
        locked = (self.about or {}).get("locked")
        return locked if locked is not None else [self.holdout] if self.holdout else []

    def isHeldOut(self, case: str) -> bool:
        """Whether a case is in one of the hold-outs."""
        return case in self.heldOut()

    def heldOut(self) -> set[str]:
        """The cases of all hold-outs."""
        splits = (self.about or {}).get("splits") or {}
        return {case for name in self.lockedSplits for case in splits.get(name, ())}

    @property
    def count(self) -> int:
        """How many cases there are, read or not."""
        return int((self.about or {}).get("cases", len(self.cases)))

    @property
    def labelled(self) -> int:
        """How many of all cases have a label."""
        return int((self.about or {}).get("labelled", sum(case["labelled"] for case in self.cases)))

    @property
    def trainable(self) -> int:
        """How many of the labelled cases are neither held out nor excluded."""
        found = (self.about or {}).get("trainable")
        if found is None:  # an engine of an older version, which reads no pages
            cases = [case for case in self.cases if case["labelled"] and not self.isHeldOut(case["id"])]
            found = sum(not case.get("excluded") for case in cases)
        return int(found)

    def nameOf(self, case: str) -> str:
        """The display name of a case: its id, or the name that the user gave it."""
        return (self.case(case) or {}).get("display_name") or case

    def route(self, *parts: object, of: str | None = None, **query: object) -> str:
        """``/datasets/ID/part/part?name=value``, of the open dataset or of another one."""
        return route("datasets", of or self.id or "", *parts, **query)

    def case(self, caseId: str) -> dict | None:
        """The engine's entry of a case."""
        return self._known.get(caseId)

    def versions(self) -> list[dict]:
        """The versions of the dataset's own models, newest first: id, name, version, title, card, current."""
        models = self.about["models"] if self.about else []
        found = [{**version, "name": model["name"]} for model in models for version in model["versions"]]

        def age(entry: dict) -> tuple:
            return (entry["card"].get("training") or {}).get("date") or "", entry["version"]

        return sorted(found, key=age, reverse=True)

    def modelInUse(self) -> str:
        """The id, with its version, of the model that is in use for the structures of the dataset."""
        chosen = settings.modelInUse(map(structureKey, self.labels))
        own = [v for v in self.versions() if v["current"] and v["id"].rsplit("/", 1)[0] == chosen]
        return own[0]["id"] if own else chosen

    # ---- opening and reading

    def storedId(self) -> str:
        """The id that is stored with the scene, "" if none is."""
        parameters = self._context.parameters
        return parameters.Dataset if parameters is not None else ""

    def open(self, dataset: str | None) -> None:
        """Open a dataset by its id, or none."""
        self._wanted = dataset
        if self.about and self.about["id"] != dataset:
            self._clear()
        if self._context.parameters is not None:
            self._context.parameters.Dataset = dataset or ""
        if dataset:
            self.refresh(dataset)
        else:
            self._clear()
            self.announce()

    def _clear(self) -> None:
        self._page += 1  # what is on the way belongs to the dataset before
        self.about, self.cases, self.complete = None, [], True
        self.filter, self._known, self._opened, self._waitsForPage = "", {}, None, None

    def refresh(self, dataset: str | None = None) -> None:
        """Read the dataset from the engine again: its description, the pages of its cases, and the models."""
        wanted = dataset or self.id
        if not wanted or not self._session.running:
            return

        def take(about: dict) -> None:
            if self._wanted != wanted:  # another one was asked for meanwhile, and its answers count
                return

            def takeCases(cases: list) -> None:
                def show() -> None:
                    if self._wanted != wanted or read != self._about:
                        return
                    self.about = about
                    if page == self._page:  # else a search was begun
                        self._takePages(cases, count)
                    else:
                        self.announce()

                self._session.refreshModels(show)

            self._page += 1
            self._about += 1
            read, page = self._about, self._page
            count = max(_PAGE, len(self.cases) if self.id == wanted else 0)
            path = self.route("cases", of=wanted, first=0, count=count, contains=self.filter or None)
            self._session.get(path, takeCases)

        self._session.get(self.route(of=wanted), take)
        case = self._opened
        if case is not None and wanted == self.id and all(each["id"] != case for each in self.cases):
            self._session.get(
                self.route("cases", case), lambda entry: self._takeCase(wanted, entry), lambda _line: None
            )

    def _takePages(self, cases: list[dict], count: int) -> None:
        """The pages were read again, or others; who waits for the page after them goes on waiting."""
        for case in self.cases:
            if case["id"] != self._opened:
                self._known.pop(case["id"], None)
        waiting, self._waitsForPage = self._waitsForPage or [], None
        self.cases = cases
        self.complete = len(cases) < count or len(cases) > count  # an older engine answers all of them
        self._known.update((case["id"], case) for case in cases)
        self.announce()
        for each in waiting:
            self.more(each)

    def _takeCase(self, of: str | None, case: dict) -> None:
        if self.id == of:
            self._known[case["id"]] = case

    def search(self, text: str) -> None:
        """List the cases with a text in id or name alone, "" for all."""
        if text == self.filter or self.id is None:
            return
        self.filter = text
        self._page += 1
        page = self._page

        def take(cases: list) -> None:
            if page == self._page:
                self._takePages(cases, _PAGE)

        self._session.get(self.route("cases", first=0, count=_PAGE, contains=text or None), take)

    def more(self, then: Callable[[], object] = lambda: None) -> None:
        """Read the next page, then call `then`; nothing happens where all is read."""
        if self.complete or self.id is None:
            return
        if self._waitsForPage is not None:
            self._waitsForPage.append(then)
            return
        page, waiting = self._page, [then]
        self._waitsForPage = waiting

        def take(cases: list) -> None:
            if page != self._page or self._waitsForPage is not waiting:
                return
            self._waitsForPage = None
            self.cases = [*self.cases, *cases]
            self._known.update((case["id"], case) for case in cases)
            self.complete = len(cases) < _PAGE
            for listener in self._pageListeners:
                listener(cases)
            for each in waiting:
                each()

        def failed(message: str) -> None:
            if self._waitsForPage is waiting:
                self._waitsForPage = None
                self._context.showMessage(message)

        path = self.route("cases", first=len(self.cases), count=_PAGE, contains=self.filter or None)
        self._session.get(path, take, failed)

    def withCase(self, case: str, then: Callable[[], object]) -> None:
        """Call `then` once `case` knows this one, whichever pages were read; from now on it is the opened one."""
        self._opened, of = case, self.id
        if case in self._known:
            then()
            return

        def take(entry: dict) -> None:
            self._takeCase(of, entry)
            then()

        self._session.get(self.route("cases", case), take, lambda _message: then())

    def withAll(self, then: Callable[[list[dict]], object]) -> None:
        """Call `then` with all cases, whatever was read, unless another dataset is opened meanwhile."""
        of = self.id
        if self.complete and not self.filter:
            then(self.cases)
        else:
            self._session.get(self.route("cases"), lambda cases: then(cases) if self.id == of else None)

    # ---- listeners

    def onPage(self, listener: Callable[[list[dict]], None]) -> None:
        """Call `listener` with the cases of a page that `more` has read."""
        self._pageListeners.append(listener)

    def onChange(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the dataset may have changed."""
        self._listeners.append(listener)

    def announce(self) -> None:
        """Call all listeners, each in a callback of its own."""
        waiting, self._waiting = self._waiting, list(self._listeners)
        if self._waiting and not waiting:
            self._session.later(self._callNext, "dataset changed")

    def _callNext(self) -> None:
        listener = self._waiting.pop(0)
        if self._waiting:
            self._session.later(self._callNext, "dataset changed")
        listener()

    def onLost(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the engine has stopped: its answers will not come."""
        self._lostListeners.append(listener)

    def lose(self) -> None:
        """The engine has stopped: abort all requests."""
        self._session.abortAll()
        self._waitsForPage = None
        for listener in self._lostListeners:
            listener()

    def close(self) -> None:
        self._listeners, self._waiting, self._lostListeners, self._pageListeners = [], [], [], []


def structureKey(label: Mapping) -> str:
    """What a label stands for: its code, or its name where it has none."""
    return (label.get("type") or {}).get("value") or label["name"].casefold()
