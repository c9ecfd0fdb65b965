"""The models of a dataset with their versions, and which cases they were trained on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mper.datasets.dataset import Dataset
from mper.engine.services.models import label_entry
from mper.models.card import read_bundle
from mper.training.publish import published_version
from mper.utils.files import read_json

DRAFTS = "labelled by a model alone; figures there flatter that model, so look at these labels and correct them first"
PARTS = "labelled only in part; figures there count the labelled voxels alone, so label the rest first"


def trained_on(dataset: Dataset, cases: Sequence[str], model: Path | None = None) -> list[str]:
    """Which of `cases` runs of this dataset were trained on: those that made `model`, or that were published at all."""
    seen: set[str] = set()
    for config in (dataset.path / "runs").glob("*/config.json"):
        version = published_version(config.parent)
        if version is None:
            continue
        name = read_json(config)["name"]
        if model is not None and model.resolve() != (dataset.path / "models" / name / str(version)).resolve():
            continue
        with contextlib.suppress(OSError, ValueError):
            seen |= set(json.loads((config.parent / "cases.json").read_text(encoding="utf-8"))["trained_on"])
    return [case_id for case_id in cases if case_id in seen]


def models_of(dataset: Dataset, dataset_id: str) -> list[dict[str, Any]]:
    """The models of a dataset with their versions."""
    found = []
    for name in dataset.models:
        current = dataset.current_version(name)
        versions = []
        for version in dataset.model_versions(name):
            with contextlib.suppress(OSError, ValueError):  # a damaged one cannot be used
                card = read_bundle(dataset.model(name, version)).card
                versions.append(
                    {
                        "version": version,
                        "id": f"{dataset_id}/{name}/{version}",
                        "current": version == current,
                        "title": card.title,
                        "labels": [label_entry(label) for label in card.labels],
                        "card": dict(card.about),
                    }
                )
        found.append(
            {"name": name, "current": current, "previous": dataset.previous_version(name), "versions": versions}
        )
    return found
