"""Loads the chosen model in the engine before it is needed, so that the first segmentation does not wait for it."""

from __future__ import annotations

from MPERLib.engine import Job
from MPERLib.engine_session import AUTO, EngineSession


class ModelPreloader:
    """Keeps the engine's loaded model the one that the user has chosen.

    Parameters
    ----------
    session : EngineSession
    """

    def __init__(self, session: EngineSession):
        self._session = session
        self._wanted = ("", AUTO)
        self._loaded: tuple[str, str] | None = None
        self._job: Job | None = None
        session.onChange(self._update)

    def load(self, model: str, device: str) -> None:
        """Load a model on a device, as soon as the engine is ready."""
        self._wanted = (model, device)
        self._update()

    def _update(self) -> None:
        if not self._session.ready:
            self._loaded = None
            return
        model, device = self._wanted
        chosen = self._session.model(model) or (None if model else self._session.models[0])
        if chosen is None or self._loaded == (chosen["id"], device):
            return
        self._loaded = (chosen["id"], device)

        def failed(_message: str) -> None:  # the same error is shown when a scan is segmented with it
            self._loaded = None

        body = {"model": chosen["id"], "device": device}
        self._job = self._session.job("/models/load", body, lambda _result: None, failed)
