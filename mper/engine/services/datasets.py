"""Datasets below the roots: which there are, making one, and what one holds."""

from __future__ import annotations

from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.index import is_dataset
from mper.engine.errors import Conflict, Forbidden, InvalidRequest
from mper.engine.schemas.common import LabelModel
from mper.engine.schemas.datasets import DatasetAnswer, DatasetRequest, DatasetSummary, LabelRequest
from mper.engine.services.dataset_models import models_of
from mper.engine.services.engine import Engine
from mper.engine.services.lookup import open_dataset
from mper.engine.services.notes import Notes
from mper.engine.services.runs import runs_of
from mper.engine.settings import Client
from mper.labels import UNLABELLED, Code, Label, make_label


def add_root(engine: Engine, client: Client, folder: str) -> str:
    """The name of a root, which is new or known already; a missing folder is made.

    Raises
    ------
    Forbidden, InvalidRequest
        If the client did not start this engine; if the path is not absolute.
    """
    if not client.local:
        raise Forbidden("only who started this engine may add folders; ask for another --root where it runs")
    path = Path(folder)
    if not path.is_absolute():
        raise InvalidRequest(f"a root is an absolute path, {folder!r} is not; give the whole of it")
    path.mkdir(parents=True, exist_ok=True)
    return engine.roots.add(path)


def list_datasets(engine: Engine, notes: Notes) -> list[DatasetSummary]:
    """All datasets; one that cannot be read is left out, with a note."""
    summaries = []
    for dataset_id, folder in engine.roots.datasets():
        with notes.skipping(f"the dataset {dataset_id}"):
            dataset = Dataset.open(folder)
            cases, labelled = len(dataset.cases), len(dataset.labelled)
            summaries.append(DatasetSummary(id=dataset_id, name=dataset.name, cases=cases, labelled=labelled))
    return summaries


def add_dataset(engine: Engine, request: DatasetRequest) -> str:
    """Make a dataset; returns its id.

    Raises
    ------
    NotFound, Forbidden, InvalidRequest, Conflict, FileExistsError, ValueError
        If the root is unknown, the folder leaves it, cannot be named in a route, lies in a dataset, or is not empty, or
        a label is not as it should be.
    """
    path = engine.roots.inside(request.root, request.folder)
    if any("~" in part for part in Path(request.folder).parts):
        raise InvalidRequest(f"a dataset's folder cannot have ~ in its name, {request.folder!r} has; take another")
    for folder in path.parents:
        if any(folder.is_relative_to(root) for root in engine.roots.folders.values()) and is_dataset(folder):
            line = f"{request.folder!r} lies inside a dataset; choose a folder next to it"
            raise Conflict(line, "inside-dataset", folder=request.folder)
    labels = [_label(number, label) for number, label in enumerate(request.labels, start=1)]
    Dataset.create(path, request.name or path.name, labels)
    return "/".join(part for part in (request.root, request.folder) if part)


def describe(engine: Engine, dataset_id: str, notes: Notes) -> DatasetAnswer:
    """A dataset with its models and runs; what cannot be read is left out, with a note."""
    dataset_id = dataset_id.replace("~", "/")
    dataset = open_dataset(engine, dataset_id)
    labelled = set(dataset.labelled)
    return DatasetAnswer(
        id=dataset_id,
        name=dataset.name,
        labels=[LabelModel.model_validate(label) for label in dataset.labels],
        splits=splits_of(dataset),
        holdout=dataset.holdout,
        locked=list(dataset.locked_splits),
        models=models_of(dataset, dataset_id, notes),
        runs=runs_of(engine, dataset, dataset_id),
        cases=len(dataset.cases),
        labelled=len(labelled),
        trainable=len(labelled - {*dataset.held_out, *dataset.held_out_copies(), *dataset.history.excluded}),
    )


def splits_of(dataset: Dataset) -> dict[str, list[str]]:
    """Case ids by split, in order."""
    return {name: list(ids) for name, ids in dataset.splits.items()}


def make_structure(dataset: Dataset, request: str | LabelRequest) -> Label:
    """A structure with a value that the dataset does not use."""
    number = next(n for n in range(1, UNLABELLED) if n not in {label.value for label in dataset.labels})
    return _label(number, request)


def _label(number: int, request: str | LabelRequest) -> Label:
    if isinstance(request, str):
        return make_label(number, request)
    known = make_label(request.value or number, request.name)
    category, type_, *narrower = (
        Code(code.scheme, code.value, code.meaning) if code else None
        for code in (request.category, request.type, request.modifier, request.region, request.region_modifier)
    )
    red, green, blue = request.colour or known.colour
    coded = category or known.category, type_ or known.type
    return Label(known.value, known.name, *coded, (red, green, blue), *narrower)
