"""A run's model becomes a version of the dataset's, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_data import blob_dataset
from small_models import random_bundle

from mper.datasets.dataset import Dataset
from mper.datasets.packed import pack
from mper.training.publish import publish_run, published_version


def run_of(dataset: Path, run: Path, name: str | None, **card: Any) -> Path:
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"dataset": str(dataset), "name": name}), encoding="utf-8")
    random_bundle(**card).save(run / "model")
    return run


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return blob_dataset(tmp_path / "data", 1)


def test_run_with_a_name_is_published_once(dataset: Dataset, tmp_path: Path) -> None:
    run = run_of(dataset.path, tmp_path / "run", "mine")
    assert published_version(run) is None
    made = publish_run(run)
    assert made == dataset.model("mine", 1) and published_version(run) == 1
    assert publish_run(run) == made and dataset.model_versions("mine") == [1]
    (run / "published.json").unlink()  # as after a program that was killed before it wrote this
    assert publish_run(run) == made and dataset.model_versions("mine") == [1] and published_version(run) == 1
    other = run_of(dataset.path, tmp_path / "other", "mine", window=(32, 32, 32))
    assert publish_run(other) == dataset.model("mine", 2) and published_version(other) == 2
    assert dataset.current_version("mine") == 1


def test_run_without_a_name_is_not_published(dataset: Dataset, tmp_path: Path) -> None:
    assert publish_run(run_of(dataset.path, tmp_path / "run", None)) is None and dataset.models == ()


def test_packed_dataset_keeps_no_models(dataset: Dataset, tmp_path: Path) -> None:
    pack(dataset, tmp_path / "packed", 100)
    heard: list[str] = []
    assert publish_run(run_of(tmp_path / "packed", tmp_path / "run", "mine"), heard.append) is None
    assert len(heard) == 1 and "keeps no models" in heard[0]
