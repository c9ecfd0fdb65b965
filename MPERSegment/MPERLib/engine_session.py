"""The engine as one module uses it: its state, its models and devices, and requests that end with the panel."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from MPERLib import callbacks, engine_words, formatting, settings
from MPERLib import engine as engines
from MPERLib.engine import Engine, Job, Pending

AUTO = "auto"  # the device that the engine chooses

Done = Callable[[Any], object]
ErrorCallback = Callable[[str], object]


class _Guard:
    """A callback that can be silenced, however long someone keeps it."""

    def __init__(self, callback: Callable[..., object]):
        self.callback: Callable[..., object] | None = callback

    def __call__(self, *arguments: Any) -> None:
        if self.callback is not None:
            self.callback(*arguments)


class EngineSession:
    """The engine that both modules share, for one of them.

    Parameters
    ----------
    failed : callable
        Takes one line for the user when a request has failed that has no `failed` of its own.

    Attributes
    ----------
    engine : Engine
    models : list of dict
        The answer to ``GET /models``, each model once; empty until the engine is ready.
    modelNotes : list of str
        Which datasets and models are not among them, and why, one line each.
    """

    def __init__(self, failed: ErrorCallback):
        self._failed = failed
        self.models: list[dict[str, Any]] = []
        self.modelNotes: list[str] = []
        self._listeners: list[Callable[[], None]] = []
        self._requests: list[Pending | Job] = []
        self._guards: weakref.WeakSet[_Guard] = weakref.WeakSet()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._use(engines.shared())

    def _use(self, engine: Engine) -> None:
        self._unsubscribe()
        self.engine = engine
        self.models, self.modelNotes = [], []
        self._unsubscribe = engine.onState(lambda _engine: self._onState())

    # ---- state

    @property
    def running(self) -> bool:
        """Whether the engine takes requests."""
        return self.engine.state == "ready"

    @property
    def ready(self) -> bool:
        """Whether the engine takes requests and its models are known."""
        return self.running and bool(self.models)

    def stateText(self) -> str:
        """The state of the engine, for the user."""
        if self.engine.state == "ready":
            where = self.engine.url if self.engine.isRemote else _("on this computer")
            return _("The engine is running ({where}).").format(where=where)
        if self.engine.state == "starting":
            return _("The engine is starting; the first time, this may take a minute.")
        if self.engine.state == "failed":
            return _("The engine has stopped.")
        return _("The engine is not running.")

    def model(self, id_: str) -> dict[str, Any] | None:
        """A model by its id; ``DATASET/NAME`` stands for the version in use."""
        return next((model for model in self.models if id_ in _ids(model)), None)

    def modelOf(self, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """The model that made a result; where the engine does not have it, one of its name."""
        sha256, named = result.get("model_sha256"), (result.get("model"), result.get("model_version"))
        made = [model for model in self.models if sha256 and (model.get("card") or {}).get("sha256") == sha256]
        same = [model for model in made if (model.get("name"), model.get("version")) == named]
        return next(iter([*same, *made]), None) or self.model(str(result.get("model")))

    def modelTitle(self, model: Mapping[str, Any]) -> str:
        """The name of a model to choose it by; marks the one in use where the user has own models."""
        name = formatting.model_name(model)
        own = any(isinstance(other.get("origin"), dict) for other in self.models)
        structures = [(label.get("type") or {}).get("value") or label["name"].casefold() for label in model["labels"]]
        used = own and model is self.model(settings.modelInUse(structures))
        return _("{name} (in use)").format(name=name) if used else name

    def devices(self, training: bool = False) -> list[tuple[str, str]]:
        """(id, text) of the devices to choose from, automatic choice first; no Apple GPU can train."""
        devices = [each for each in self.engine.info.get("devices", []) if not (training and each["name"] == "mps")]
        found = [(device["name"], engine_words.device(device["name"], device["words"])) for device in devices]
        default = self.engine.info.get("default_device", "")
        best = dict(found).get("cpu" if training and default == "mps" else default)
        return [(AUTO, _("Automatic: {device}").format(device=best) if best else _("Automatic")), *found]

    def onChange(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the engine, its state or its models have changed."""
        self._listeners.append(listener)

    def _onState(self) -> None:
        if self.running:
            self.refreshModels()
        else:
            self.models, self.modelNotes = [], []
        self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            callbacks.slot(listener, "engine changed")()

    # ---- start, models

    def start(self) -> None:
        """Start the engine; read its models again where it runs already."""
        if self.engine is not engines.shared():  # the other module has chosen another one
            self._use(engines.shared())
            self._notify()
        if self.engine.state in ("stopped", "failed"):
            self.engine.start()
        elif self.running:
            self.refreshModels()

    def refreshModels(self, then: Callable[[], None] = lambda: None) -> None:
        """Read the models again, then call `then`, also if that has failed."""

        def take(models: list[dict[str, Any]], notes: list[str]) -> None:
            self.models, self.modelNotes = _unique(models), notes
            self._notify()
            then()

        def failed(message: str) -> None:
            self._failed(message)
            then()

        self.getList("/models", take, failed)

    def refreshInfo(self, then: Callable[[], None]) -> None:
        """Read the engine's info again, then call `then`; its diagnostics are complete some time after the start."""

        def take(info: dict[str, Any]) -> None:
            self.engine.info = info
            then()

        self.get("/info", take, lambda _message: then())

    # ---- requests that end with the panel

    def get(self, path: str, done: Done, failed: ErrorCallback | None = None) -> Pending:
        return self._track(self.engine.get(path, self.guard(done), self._or(failed)))

    def getList(self, path: str, done: Callable[[list, list[str]], object], failed: ErrorCallback) -> Pending:
        """Ask for a list; `done` takes it, and what it leaves out and why, one line each."""
        left_out: list[str] = []
        take = self.guard(lambda found: done(found, left_out))
        return self._track(self.engine.get(path, take, self._or(failed), left_out.extend))

    def post(self, path: str, body: object, done: Done, failed: ErrorCallback | None = None) -> Pending:
        return self._track(self.engine.post(path, body, self.guard(done), self._or(failed)))

    def put(self, path: str, body: object, done: Done, failed: ErrorCallback | None = None) -> Pending:
        return self._track(self.engine.put(path, body, self.guard(done), self._or(failed)))

    def delete(self, path: str, done: Done = lambda _answer: None, failed: ErrorCallback | None = None) -> Pending:
        return self._track(self.engine.delete(path, self.guard(done), self._or(failed)))

    def getBytes(self, path: str, done: Done, failed: ErrorCallback | None = None) -> Pending:
        return self._track(self.engine.getBytes(path, self.guard(done), self._or(failed)))

    def getText(self, path: str, done: Done, failed: ErrorCallback | None = None) -> Pending:
        return self.getBytes(path, lambda data: done(bytes(data).decode("utf-8", errors="replace")), failed)

    def getArray(
        self, path: str, done: Callable[[np.ndarray, dict], object], failed: ErrorCallback | None = None
    ) -> Pending:
        return self._track(self.engine.getArray(path, self.guard(done), self._or(failed)))

    def postArray(
        self,
        path: str,
        array: np.ndarray,
        header: Mapping[str, Any],
        done: Done,
        failed: ErrorCallback | None = None,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Pending:
        """Send an array (k, j, i); see `Engine.postArray`."""
        return self._track(
            self.engine.postArray(path, array, header, self.guard(done), self._or(failed), self.guard(progress))
        )

    def follow(self, path: str, event: Done, ended: Done, failed: ErrorCallback | None = None) -> Pending:
        """Follow a stream of events; `ended` takes the last one."""
        return self._track(self.engine.follow(path, self.guard(event), self.guard(ended), self._or(failed)))

    def job(
        self,
        path: str,
        body: object,
        done: Done,
        failed: ErrorCallback | None = None,
        progress: Done = lambda _event: None,
        cancelled: Callable[[], object] = lambda: None,
    ) -> Job:
        """Start a job and follow it; see `Engine.job`."""
        return self._track(
            self.engine.job(path, body, self.guard(done), self._or(failed), self.guard(progress), self.guard(cancelled))
        )

    def later(self, callback: Callable[[], object], name: str) -> None:
        """Call `callback` from the event loop next; see `callbacks.later`."""
        callbacks.later(self.guard(callback), name)

    def guard(self, callback: Callable[..., object]) -> Callable[..., None]:
        """`callback`, silent once the panel is closed."""
        guard = _Guard(callback)
        self._guards.add(guard)
        return guard

    def _or(self, failed: ErrorCallback | None) -> Callable[..., None]:
        return self.guard(failed or self._failed)

    def _track(self, request: Any) -> Any:
        self._requests = [other for other in self._requests if not other.over] + [request]
        return request

    def abortAll(self) -> None:
        """Abort all requests; none of their callbacks is called any more."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.abort()

    def close(self) -> None:
        """The panel is closed: abort its requests; the engine keeps running, as the other module may use it."""
        self._unsubscribe()
        self.abortAll()
        for guard in list(self._guards):
            guard.callback = None
        self._listeners = []


def _unique(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model once: a dataset whose folder lies under two roots is listed under both."""
    used = settings.setting(settings.CURRENT_MODEL_KEY)
    found: dict[object, dict[str, Any]] = {}
    for model in models:
        origin = model.get("origin")
        own = isinstance(origin, dict)
        key = (origin["name"], origin["version"], (model.get("card") or {}).get("sha256")) if own else model["id"]
        same = found.get(key)
        if same is None:
            found[key] = model
        elif used in _ids(model):
            found[key] = {**model, "also": _ids(same)}
        else:
            found[key] = {**same, "also": [*same.get("also", ()), *_ids(model)]}
    return list(found.values())


def _ids(model: Mapping[str, Any]) -> list[str]:
    """All ids under which a model may have been chosen."""
    origin = model.get("origin")
    own = isinstance(origin, dict) and origin["current"]
    current = [f"{origin['dataset']}/{origin['name']}"] if own else []
    return [model["id"], *current, *model.get("also", ())]
