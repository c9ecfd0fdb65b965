"""A draft of a label by a model: the one in use for the dataset's structures, else another that segments them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from MPERLib import licences
from MPERLib.engine import route
from MPERLib.engine_session import AUTO, EngineSession
from MPERLib.panel_context import PanelContext

from MPERTrainerLib.job_button import JobButton
from MPERTrainerLib.open_dataset import OpenDataset, structureKey


class LabelDraft:
    """The button *Draft by model*, and the job.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    dataset : OpenDataset
    """

    def __init__(self, context: PanelContext, session: EngineSession, dataset: OpenDataset):
        self._context, self._session, self._dataset = context, session, dataset
        self._wanted = 0  # counts the drafts that were asked for, and cancelled
        self._job = JobButton(context, session, dataset, context.ui.draftButton, context.ui.editProgress)

    @property
    def running(self) -> bool:
        return self._job.running

    def cancel(self) -> None:
        """Cancel it, if it runs or is about to."""
        self._wanted += 1
        if self._job.running:
            self._job.cancel()

    def start(
        self,
        case: str,
        of: str | None,
        box_mm: Sequence[float] | None,
        labels: Sequence[Mapping[str, Any]],
        drafted: Callable[[np.ndarray, dict, dict], None],
    ) -> None:
        """Let the model segment a case of a dataset inside a box (LPS mm), None for the whole scan.

        `drafted` takes the mask of the model with its header, and the job's result.
        """
        model = self.model(labels)
        known = self._session.model(model)
        if known is not None and not licences.acknowledged(known):
            return

        def withScan(answer: dict) -> None:
            scan = answer["scan"]
            if wanted != self._wanted:
                self._session.delete(route("scans", scan))
                return

            def segmented(result: dict, _job: str, _notices: list[str]) -> None:
                self._session.delete(route("scans", scan))
                prediction = result["prediction"]

                def take(array: np.ndarray, header: dict) -> None:
                    self._session.delete(route("predictions", prediction))
                    drafted(array, header, result)

                self._session.getArray(route("predictions", prediction, "mask"), take)

            body = {"scan": scan, "model": model, "device": AUTO, "roi_mm": box_mm, "tta": False}
            self._job.start("/jobs/segment", body, segmented)

        self._context.clearMessage()
        self._wanted += 1
        wanted = self._wanted
        self._session.post(self._dataset.route("cases", case, "scan", of=of), {}, withScan)

    def model(self, labels: Sequence[Mapping[str, Any]]) -> str:
        """The model that drafts: the one in use, if it segments one of these structures, else another that does."""
        own = {structureKey(label) for label in labels}

        def segments(model: dict) -> bool:
            return bool(own & {structureKey(label) for label in model["labels"]})

        inUse = self._dataset.modelInUse()
        model = self._session.model(inUse)
        if model is None or segments(model):
            return inUse
        versions = sorted(self._dataset.versions(), key=lambda version: not version["current"])
        others = [*versions, *(each for each in self._session.models if each["origin"] == "bundled")]
        return next((each["id"] for each in others if segments(each)), inUse)
