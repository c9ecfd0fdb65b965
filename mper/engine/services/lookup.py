"""Datasets, cases and runs by the ids in a route; nothing outside of the roots is opened."""

from __future__ import annotations

import contextlib

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.engine.errors import NotFound
from mper.engine.services.engine import Engine
from mper.training.runs import RunFolder
from mper.utils.coded import line_of
from mper.utils.files import check_name, existing_name


def open_dataset(engine: Engine, dataset_id: str) -> Dataset:
    """The dataset of an id."""
    return Dataset.open(engine.roots.dataset(dataset_id))


def open_case(engine: Engine, dataset_id: str, case_id: str) -> Case:
    """A case of a dataset.

    Raises
    ------
    NotFound
        If there is none, or it is a link that leads out of the dataset.
    """
    dataset = open_dataset(engine, dataset_id)
    try:
        case = dataset.case(case_id)
    except ValueError as error:
        raise NotFound(line_of(error)) from error
    if not case.path.resolve().is_relative_to(dataset.path.resolve()):
        raise NotFound(f"case {case_id} is a link that leads out of its dataset; copy it into the dataset")
    return case


def open_run(engine: Engine, dataset_id: str, run_id: str) -> RunFolder:
    """A run of a dataset.

    Raises
    ------
    NotFound
        If there is none.
    """
    dataset = open_dataset(engine, dataset_id)
    with contextlib.suppress(ValueError):
        runs = dataset.path / "runs"
        path = runs / existing_name(runs, check_name(run_id, "run"))
        inside = path.resolve().is_relative_to(dataset.path.resolve())
        if inside and (path / "config.json").is_file():
            return RunFolder(path)
    raise NotFound(f"there is no run {run_id!r} in this dataset")
