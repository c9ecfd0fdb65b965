"""The search for end diastole and end systole of a time series that is not segmented yet, by the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from MPERLib.engine import route
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.heart_phase import ED, ES, PhaseMask, ventricle_of

Take = Callable[[np.ndarray, Mapping[str, Any]], None]


def ventricle_model(models: Sequence[Mapping[str, Any]], preferred: Mapping[str, Any] | None) -> Mapping | None:
    """A model that segments the left ventricle, `preferred` if it does; None if there is none."""
    wanted = [preferred, *models] if preferred is not None else models
    return next((model for model in wanted if ventricle_of(model.get("labels") or ()) is not None), None)


class HeartPhaseSearch:
    """Segments all phases one after the other, and tells where the left ventricle is largest and smallest.

    Parameters
    ----------
    session : EngineSession
    model : mapping
        An entry of ``GET /models`` that segments the left ventricle.
    count : int
        Of the phases.
    voxels : callable
        Takes the number of a phase, from 1, and a function that takes its voxels (k, j, i) and the header that goes
        with them to the engine.
    progress : callable
        Takes a line for the user.
    done : callable
        Takes the numbers of ED and ES.
    failed : callable
        Takes a line for the user.
    """

    def __init__(
        self,
        session: EngineSession,
        model: Mapping[str, Any],
        count: int,
        voxels: Callable[[int, Take], None],
        progress: Callable[[str], None],
        done: Callable[[int, int], None],
        failed: Callable[[str], None],
    ):
        self._session, self._model, self._count, self._voxels = session, model, count, voxels
        self._progress, self._done, self._failed = progress, done, failed
        self._best: dict[str, PhaseMask] = {}
        self._call: Any = None
        self._scan = ""  # the engine's id
        self._over = False
        self._look(1)

    def cancel(self) -> None:
        """End it without a callback."""
        if not self._over:
            self._over = True
            if self._call is not None:
                self._call.abort()
            self._drop()

    def _look(self, number: int) -> None:
        if self._over:
            return
        text = _("Looking for ED and ES: phase {n} of {count}").format(n=number, count=self._count)
        self._progress(text)
        try:
            self._voxels(number, lambda array, header: self._send(number, array, header))
        except ValueError as error:
            self._fail(str(error))

    def _send(self, number: int, array: np.ndarray, header: Mapping[str, Any]) -> None:
        if self._over:
            return

        def sent(answer: dict) -> None:
            self._scan = answer["scan"]
            body = {"scan": self._scan, "model": self._model["id"], "device": AUTO, "roi_mm": None}
            self._call = self._session.job("/jobs/segment", body, segmented, self._fail)

        def segmented(result: dict) -> None:
            path = route("predictions", result["prediction"], "mask")
            self._call = self._session.getArray(
                path, lambda mask, head: self._take(PhaseMask.from_answer(number, mask, head, result)), self._fail
            )

        self._call = self._session.postArray("/scans", array, header, sent, self._fail)

    def _take(self, found: PhaseMask) -> None:
        self._drop()
        for choice in (ED, ES):
            if found.wins(choice, self._best.get(choice)):
                self._best[choice] = found
        if found.number < self._count:
            self._session.later(lambda: self._look(found.number + 1), "next phase")
        elif self._best:
            self._over = True
            self._done(self._best[ED].number, self._best[ES].number)
        else:
            text = _("The model finds no left ventricle in any of the {n} phases. Choose phases yourself.")
            self._fail(text.format(n=self._count))

    def _fail(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._drop()
            self._failed(message)

    def _drop(self) -> None:
        """Let the engine drop the scan of the phase."""
        scan, self._scan = self._scan, ""
        if scan:
            self._session.delete(route("scans", scan), failed=lambda _message: None)
