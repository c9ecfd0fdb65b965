"""The models of a dataset with their versions, and which cases they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.engine.errors import NotFound
from mper.engine.schemas.datasets import DatasetModel, ModelVersion
from mper.engine.schemas.evaluation import UseAnswer
from mper.engine.services.models import label_answers, version_in_use
from mper.engine.services.notes import Notes
from mper.models.card import read_bundle
from mper.training.publish import published_version
from mper.training.trained_scans import scan_checksum, scans_of_model, scans_of_run


def trained_on(dataset: Dataset, cases: Sequence[str], notes: Notes, model: Path | None = None) -> list[str]:
    """Which of `cases` `model` was trained on, itself or in its start model; None: any model that this dataset made."""
    seen = set() if model is None else scans_of_model(model)
    if model is None:
        for config in sorted((dataset.path / "runs").glob("*/config.json")):
            with notes.skipping(f"the run {config.parent.name}"):
                if published_version(config.parent) is not None:
                    seen |= scans_of_run(config.parent)
    found = []
    for case_id in cases if seen else ():
        with notes.skipping(f"the case {case_id}"):
            if scan_checksum(dataset.case(case_id)) in seen:
                found.append(case_id)
    return found


def models_of(dataset: Dataset, dataset_id: str, notes: Notes) -> list[DatasetModel]:
    """The models of a dataset with their versions; what cannot be read is left out, with a note."""
    models = []
    for name in dataset.models:
        with notes.skipping(f"the model {name}"):
            current = version_in_use(dataset, name, notes)
            versions = []
            for version in dataset.model_versions(name):
                with notes.skipping(f"version {version} of the model {name}"):
                    card = read_bundle(dataset.model(name, version)).card
                    versions.append(
                        ModelVersion(
                            version=version,
                            id=f"{dataset_id}/{name}/{version}",
                            current=version == current,
                            title=card.title,
                            labels=label_answers(card),
                            card=dict(card.about),
                        )
                    )
            previous = dataset.previous_version(name)
            models.append(DatasetModel(name=name, current=current, previous=previous, versions=versions))
    return models


def use_version(dataset: Dataset, name: str, version: int) -> UseAnswer:
    """Make a version the current one of its model.

    Raises
    ------
    NotFound, ValueError
        If there is no such model, or no such version.
    """
    try:
        dataset.model_versions(name)
    except ValueError as error:
        raise NotFound(f"this dataset has no model {name!r}") from error
    dataset.use_model(name, version)
    return UseAnswer(name=name, current=version, previous=dataset.previous_version(name))
