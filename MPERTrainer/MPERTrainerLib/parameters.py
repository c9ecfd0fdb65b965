"""What the module stores with the scene."""

from __future__ import annotations

import json

from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class TrainerParameters:
    """Parameters of the module; names and texts are those of version 0.1, so that scenes open in both.

    Dataset, Case, Run : ids of the open dataset, the selected case and the training run that is shown.
    Skipped : JSON, skipped cases by dataset.
    """

    Dataset: str = ""
    Case: str = ""
    Run: str = ""
    Skipped: str = ""

    def skippedCases(self, dataset: str | None) -> list[str]:
        """The skipped cases of a dataset, in the order of skipping."""
        try:
            stored = json.loads(self.Skipped or "{}")
        except ValueError:  # a scene that somebody changed by hand
            stored = {}
        return [str(case) for case in stored.get(dataset, [])] if isinstance(stored, dict) else []

    def setSkippedCases(self, dataset: str | None, cases: list[str]) -> None:
        self.Skipped = json.dumps({dataset: cases})
