"""The engine as this module uses it: what it offers, which scans it holds, and what is wrong when it is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MPERLib import engine as engines
from MPERLib import settings
from MPERLib.engine import Engine, Job, Pending
from slicer.i18n import tr as _

from MPERSegmentLib.uploaded_scans import UploadedScans

AUTO = "auto"
_FIRST = "la"  # in use until the trainer puts another one in use


class EngineSession:
    """The engine that both modules share, with its models and devices once it is ready.

    Parameters
    ----------
    changed : callable
        Called whenever state, models or devices have changed.
    trouble : callable
        Takes a line for a person when the engine has failed.
    """

    def __init__(self, changed: Callable[[], None], trouble: Callable[[str], None]):
        self._changed, self._trouble = changed, trouble
        self.models: list[dict[str, Any]] = []
        self._preparing: Job | None = None
        self._asked: list[Pending] = []
        self._prepared: tuple[str, str] | None = None
        self._wanted: tuple[str, str] = ("", AUTO)
        self._forget: Callable[[], None] = lambda: None
        self._take(engines.shared())

    def _take(self, engine: Engine) -> None:
        self._forget()
        self.engine = engine
        self.scans = UploadedScans(engine)
        self._forget = engine.onState(lambda _engine: self._onState())

    # ---- what it offers

    @property
    def ready(self) -> bool:
        return self.engine.state == "ready" and bool(self.models)

    def stateWords(self) -> str:
        """How it stands, in words."""
        if self.engine.state == "ready":
            where = self.engine.url if self.engine.isRemote else _("on this computer")
            return _("The engine runs {where}.").format(where=where)
        if self.engine.state == "starting":
            return _("The engine starts; the first time this may take a minute.")
        if self.engine.state == "failed":
            return _("The engine has stopped.")  # why is said once, in the message above and in the panel Engine
        return _("The engine is not running.")

    def model(self, id_: str) -> dict[str, Any] | None:
        """An entry of ``GET /models`` by its id; ``DATASET/NAME`` stands for its current version."""
        return next((model for model in self.models if id_ in _ids(model)), None)

    def nameOf(self, model: dict[str, Any]) -> str:
        """A model in a few words; one of the user's own tells its dataset."""
        origin = model.get("origin")
        if not isinstance(origin, dict):
            return str(model.get("title") or model.get("name") or model["id"])
        structures = "/".join(label["name"] for label in model.get("labels") or ()) or model.get("name") or model["id"]
        return _("{structures}, own version {version} from {dataset}").format(
            structures=structures, version=origin.get("version"), dataset=str(origin.get("dataset")).rpartition("/")[2]
        )

    def titleOf(self, model: dict[str, Any]) -> str:
        """A model as the user chooses it; the one that the trainer put in use says so."""
        name = self.nameOf(model)
        own = any(isinstance(other.get("origin"), dict) for other in self.models)
        used = self.model(settings.setting(settings.CURRENT_MODEL_KEY) or _FIRST)
        return _("{name} (in use)").format(name=name) if own and model is used else name

    def devices(self) -> list[tuple[str, str]]:
        """(name, words) of the devices to choose from, the engine's own choice first."""
        found = [(device["name"], device["words"]) for device in self.engine.info.get("devices", [])]
        best = dict(found).get(self.engine.info.get("default_device", ""))
        return [
            (AUTO, _("The best there is: {device}").format(device=best) if best else _("The best there is")),
            *found,
        ]

    # ---- what is done with it

    def start(self) -> None:
        """Start the engine, unless it is there; the model that was wanted last is loaded as soon as it can be."""
        if self.engine is not engines.shared():  # the other module may have chosen another one
            self._take(engines.shared())
        if self.engine.state in ("stopped", "failed"):
            self.engine.start()
        elif self.engine.state == "ready":
            self.refresh()

    def refresh(self) -> None:
        """Ask which models there are; the trainer may have made one."""

        def take(models: list[dict[str, Any]]) -> None:
            self.models = _each_once(models)
            self._changed()
            self.prepare(*self._wanted)

        self._ask("/models", take, self._trouble)

    def prepare(self, model: str, device: str) -> None:
        """Load a model before it is needed, so that the first click does not wait for it."""
        self._wanted = (model, device)
        chosen = self.model(model) or (self.models[0] if self.models and not model else None)
        if self.engine.state != "ready" or chosen is None or self._prepared == (chosen["id"], device):
            return
        self._prepared = (chosen["id"], device)

        def failed(_message: str) -> None:  # whoever segments with it is told why
            self._prepared = None

        self._preparing = self.engine.job(
            "/models/load", {"model": chosen["id"], "device": device}, lambda _result: None, failed
        )

    def askAgain(self, then: Callable[[], None]) -> None:
        """Let the engine say anew what it is; its diagnostics take a while after the start."""

        def take(info: dict[str, Any]) -> None:
            self.engine.info = info
            then()

        self._ask("/info", take, lambda _message: then())

    def explain(self) -> None:
        """Say what is wrong with the engine."""
        if self.engine.state == "failed":
            self._trouble(self.engine.reason)

    def close(self) -> None:
        """Hear nothing more; the engine itself goes on, as the other module may use it."""
        self._forget()
        for pending in [*self._asked, *filter(None, [self._preparing])]:
            pending.abort()
        self.scans.forgetAll()

    def _ask(self, path: str, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        self._asked = [pending for pending in self._asked if pending.call is None or not pending.call.over]
        self._asked.append(self.engine.get(path, done, failed))

    def _onState(self) -> None:
        self.scans = UploadedScans(self.engine)  # a new process knows none of the old one's scans
        self._prepared = None
        if self.engine.state == "ready":
            self.refresh()
        else:
            self.models = []
            self._changed()
            self.explain()


def _each_once(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the same weights again: a dataset whose folder lies under two roots is listed under both."""
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


def _ids(model: dict[str, Any]) -> list[str]:
    """All ids under which a model may have been chosen."""
    return list(filter(None, [model["id"], _current_id(model), *model.get("also", ())]))


def _current_id(model: dict[str, Any]) -> str | None:
    """``DATASET/NAME`` of the version that is in use, None for all others."""
    origin = model.get("origin")
    return f"{origin['dataset']}/{origin['name']}" if isinstance(origin, dict) and origin["current"] else None
