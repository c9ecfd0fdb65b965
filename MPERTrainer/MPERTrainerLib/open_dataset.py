"""The dataset that all panels work on: its description, its cases, and the versions of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from MPERLib import settings
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.panel_context import PanelContext


class OpenDataset:
    """The dataset that is open, or none.

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
        The answer to ``GET /datasets/ID/cases``.
    """

    def __init__(self, context: PanelContext, session: EngineSession):
        self._context, self._session = context, session
        self.about: dict | None = None
        self.cases: list[dict] = []
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
        return ((self.case(case) or {}).get("split") or None) in self.lockedSplits

    def nameOf(self, case: str) -> str:
        """The display name of a case: its id, or the name that the user gave it."""
        return (self.case(case) or {}).get("display_name") or case

    def route(self, *parts: object, of: str | None = None, **query: object) -> str:
        """``/datasets/ID/part/part?name=value``, of the open dataset or of another one."""
        return route("datasets", of or self.id or "", *parts, **query)

    def case(self, caseId: str) -> dict | None:
        """The engine's entry of a case."""
        return next((case for case in self.cases if case["id"] == caseId), None)

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
            self.about, self.cases = None, []
        if self._context.parameters is not None:
            self._context.parameters.Dataset = dataset or ""
        if dataset:
            self.refresh(dataset)
        else:
            self.about, self.cases = None, []
            self.announce()

    def refresh(self, dataset: str | None = None) -> None:
        """Read the dataset from the engine again: its description, its cases, and the models."""
        wanted = dataset or self.id
        if not wanted or not self._session.running:
            return

        def take(about: dict) -> None:
            def takeCases(cases: list) -> None:
                def show() -> None:
                    if self._wanted == wanted:  # no other one was opened meanwhile
                        self.about, self.cases = about, cases
                        self.announce()

                self._session.refreshModels(show)

            self._session.get(self.route("cases", of=wanted), takeCases)

        self._session.get(self.route(of=wanted), take)

    # ---- listeners

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
        for listener in self._lostListeners:
            listener()

    def close(self) -> None:
        self._listeners, self._waiting, self._lostListeners = [], [], []


def structureKey(label: Mapping) -> str:
    """What a label stands for: its code, or its name where it has none."""
    return (label.get("type") or {}).get("value") or label["name"].casefold()
