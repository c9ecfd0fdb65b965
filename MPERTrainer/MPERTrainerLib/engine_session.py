"""What the sections of the panel share: the engine, the chosen dataset, and what is known about it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from urllib.parse import quote

import qt
from MPERLib import callbacks, settings

from MPERTrainerLib.formatting import sentence

PREVIOUS_MODEL = "MPER/PreviousModel"  # the model id, with its version, that was in use before
AUTHOR = "MPER/Author"
FIRST_MODEL = "la"

Done = Callable[[object], None]


class _Guard:
    """A callback that can be taken back, however long someone keeps the guard."""

    def __init__(self, callback: Callable):
        self.callback: Callable | None = callback

    def __call__(self, *arguments) -> None:
        if self.callback is not None:
            self.callback(*arguments)


class Session:
    """One panel's talk with the engine.

    Parameters
    ----------
    engine : MPERLib.engine.Engine
    recall, remember : callable
        ``recall(key)`` gives what ``remember(key, text)`` kept with the scene, "" where there is nothing.
    tell : callable
        Shows one line to the person; ``tell("")`` takes it away.
    """

    def __init__(self, engine, recall: Callable[[str], str], remember: Callable[[str, str], None], tell: Done):
        self.engine = engine
        self.recall = recall
        self.remember = remember
        self.tell = tell
        self.info: dict = {}
        self.dataset: dict | None = None
        self.cases: list[dict] = []
        self._listeners: list[Callable[[], None]] = []
        self._waiting: list[Callable[[], None]] = []  # those that have not heard the news yet
        self._mourners: list[Callable[[], None]] = []
        self._calls: list = []
        self._guards: weakref.WeakSet = weakref.WeakSet()

    # ---- the engine

    def use(self, engine) -> None:
        """Talk to another engine from now on."""
        self.lose()
        self.engine, self.info = engine, {}
        self.dataset, self.cases = None, []
        self.announce()

    def lose(self) -> None:
        """The engine is gone: nothing that was asked of it will come."""
        for call in self._calls:
            call.abort()
        self._calls = []
        for mourner in self._mourners:
            mourner()

    def onLost(self, mourner: Callable[[], None]) -> None:
        """Call `mourner` when the engine is gone."""
        self._mourners.append(mourner)

    # ---- the dataset

    @property
    def ready(self) -> bool:
        return self.engine is not None and self.engine.state == "ready"

    def path(self, *parts: object, dataset: str | None = None) -> str:
        """``/datasets/ID/part/part`` as a route takes it."""
        chosen = dataset or (self.dataset["id"] if self.dataset else "")
        return "/".join(["/datasets", *(quote(str(part), safe="") for part in (chosen.replace("/", "~"), *parts))])

    def choose(self, dataset: str | None) -> None:
        """Open a dataset by its id, or none."""
        if self.dataset and self.dataset["id"] != dataset:
            self.dataset, self.cases = None, []
        self.remember("Dataset", dataset or "")
        if dataset:
            self.refresh(dataset)
        else:
            self.dataset, self.cases = None, []
            self.announce()

    def refresh(self, dataset: str | None = None) -> None:
        """Ask the engine again for all that is known about the dataset."""
        chosen = dataset or (self.dataset["id"] if self.dataset else None)
        if not chosen or not self.ready:
            return

        def take(about: dict) -> None:
            def takeCases(cases: list) -> None:
                if self.recall("Dataset") == chosen:  # nobody has chosen another one meanwhile
                    self.dataset, self.cases = about, cases
                    self.announce()

            self.get(self.path("cases", dataset=chosen), takeCases)

        self.get(self.path(dataset=chosen), take)

    def case(self, case_id: str) -> dict | None:
        """What the table of cases says about one."""
        return next((case for case in self.cases if case["id"] == case_id), None)

    def onChange(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something about the dataset may be new."""
        self._listeners.append(listener)

    def announce(self) -> None:
        """Tell all listeners, each in a turn of its own."""
        waiting, self._waiting = self._waiting, list(self._listeners)
        if self._waiting and not waiting:
            self.later(self._tellNext, "news")

    def _tellNext(self) -> None:
        listener = self._waiting.pop(0)
        if self._waiting:
            self.later(self._tellNext, "news")
        listener()

    # ---- versions of models

    def versions(self) -> list[dict]:
        """The versions of the dataset's own models, newest first: id, name, version, title, card, current."""
        models = self.dataset["models"] if self.dataset else []
        found = [{**version, "name": model["name"]} for model in models for version in model["versions"]]

        def age(entry: dict) -> tuple:
            return (entry["card"].get("training") or {}).get("date") or "", entry["version"]

        return sorted(found, key=age, reverse=True)

    def modelInUse(self) -> str:
        """The id, with its version, of the model that MPERSegment uses."""
        chosen = settings.setting(settings.CURRENT_MODEL_KEY) or FIRST_MODEL
        own = [v for v in self.versions() if v["current"] and v["id"].rsplit("/", 1)[0] == chosen]
        return own[0]["id"] if own else chosen

    # ---- requests that end with the panel

    def get(self, path: str, done: Done, failed: Done | None = None):
        return self._track(lambda: self.engine.get(path, self.alive(done), self.alive(failed or self.fail)))

    def post(self, path: str, body: dict, done: Done, failed: Done | None = None):
        return self._track(lambda: self.engine.post(path, body, self.alive(done), self.alive(failed or self.fail)))

    def delete(self, path: str, done: Done | None = None, failed: Done | None = None):
        done = done or (lambda answer: None)
        return self._track(lambda: self.engine.delete(path, self.alive(done), self.alive(failed or self.fail)))

    def getArray(self, path: str, done: Callable, failed: Done | None = None):
        return self._track(lambda: self.engine.getArray(path, self.alive(done), self.alive(failed or self.fail)))

    def getBytes(self, path: str, done: Callable, failed: Done | None = None):
        return self._track(lambda: self.engine.getBytes(path, self.alive(done), self.alive(failed or self.fail)))

    def postArray(self, path: str, array, header: dict, done: Done, failed: Done | None = None, progress=None):
        progress = self.alive(progress) if progress else None
        return self._track(
            lambda: self.engine.postArray(
                path, array, header, self.alive(done), self.alive(failed or self.fail), progress
            )
        )

    def getText(self, path: str, done: Done, failed: Done | None = None):
        return self.getBytes(path, lambda data: done(bytes(data).decode("utf-8", errors="replace")), failed)

    def job(self, path: str, body: dict, done: Done, failed: Done, progress: Done, cancelled: Callable[[], None]):
        callbacks = [self.alive(callback) for callback in (done, failed, progress, cancelled)]
        return self._track(lambda: self.engine.job(path, body, *callbacks))

    def follow(self, path: str, event: Done, ended: Done, failed: Done | None = None):
        return self._track(
            lambda: self.engine.follow(path, self.alive(event), self.alive(ended), self.alive(failed or self.fail))
        )

    def later(self, callback: Callable[[], None], name: str) -> None:
        """Call it at the next turn of the event loop: what Slicer takes long for is not added up in one."""
        qt.QTimer.singleShot(0, callbacks.slot(self.alive(callback), name))

    def fail(self, message: str) -> None:
        """Show what went wrong."""
        self.tell(sentence(message))

    def alive(self, callback: Callable) -> Callable:
        """`callback`, silent once the panel is gone."""
        guard = _Guard(callback)
        self._guards.add(guard)
        return guard

    def _track(self, start: Callable):
        call = start()
        self._calls = [*self._calls[-199:], call]
        return call

    def close(self) -> None:
        """End every request; nobody is called any more."""
        for call in self._calls:
            call.abort()
        for guard in list(self._guards):
            guard.callback = None
        self._calls, self._listeners, self._waiting, self._mourners = [], [], [], []
