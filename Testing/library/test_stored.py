"""What earlier versions wrote opens, predicts, resumes and grows as before.

`stored/dataset-0.1.zip` was written by version 0.1 before the library was divided into packages: a dataset with labels
by import, hand and strokes, a locked hold-out, a published model, a finished run and one that was interrupted.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import train_with_filters

from mper.datasets.dataset import Dataset
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.training.publish import publish_run
from mper.training.runs import RunFolder, read_events
from mper.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

STORED = Path(__file__).with_name("stored")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """The stored dataset, where its interrupted run finds it."""
    with zipfile.ZipFile(STORED / "dataset-0.1.zip") as archive:
        archive.extractall(tmp_path)
    config = tmp_path / "dataset" / "runs" / "interrupted" / "config.json"
    entry = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**entry, "dataset": str(tmp_path / "dataset")}), encoding="utf-8")
    return Dataset.open(tmp_path / "dataset")


def test_a_stored_dataset_has_its_cases_labels_strokes_and_holdout(dataset: Dataset) -> None:
    assert dataset.cases == ("case0", "case1", "case2", "case3")
    assert [label.name for label in dataset.labels] == ["LA", "RA"]
    assert dataset.split(dataset.holdout or "")[0].id == "case2"
    first, second = dataset.case("case0"), dataset.case("case1")
    assert [revision.how for revision in first.revisions()] == ["imported", "strokes"]
    strokes = first.strokes(2)
    assert strokes is not None and [stroke.value for stroke in strokes.strokes] == [1, 0]
    assert strokes.scan_sha256 == first.voxels_sha256
    assert second.revisions()[-1].author == "Änne" and second.is_partial
    assert dataset.case("case3").label() is None


def test_a_stored_dataset_takes_a_new_revision_and_keeps_the_old_ones(dataset: Dataset) -> None:
    case = dataset.case("case1")
    before = {path.name: path.read_bytes() for path in (case.path / "labels").iterdir()}
    label = case.label()
    assert label is not None
    case.add_label(label, author="test", how="hand", parent=2)
    after = {path.name: path.read_bytes() for path in (case.path / "labels").iterdir()}
    assert before.items() <= after.items() and {"3.nrrd", "3.json"} <= set(after)


def test_a_stored_model_predicts_what_it_predicted(dataset: Dataset) -> None:
    bundle = ModelBundle.load(dataset.model("hearts"))
    found = Predictor(bundle, "cpu", dtype=torch.float32).predict(
        dataset.case("case3").image(), want={"label_probability"}
    )
    voxels = np.bincount(found.segmentation.labelmap.array.ravel(), minlength=3)
    np.testing.assert_allclose(voxels, (3085, 318, 1717), atol=10)  # processors round differently
    assert found.confidence == pytest.approx(0.2747, abs=0.005)


def test_a_stored_run_is_resumed_and_published_as_the_next_version(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_with_filters(monkeypatch, 2)
    run = dataset.path / "runs" / "interrupted"
    assert RunFolder(run).state() == "failed" and RunFolder(dataset.path / "runs" / "done").state() == "finished"
    before = read_events(run)
    train(run)
    assert RunFolder(run).state() == "finished"
    resumed = read_events(run)[len(before) :]
    assert next(event["fraction"] for event in resumed if event["event"] == "step") >= 0.5
    assert publish_run(run) == dataset.path / "models" / "hearts" / "2"
    assert dataset.model_versions("hearts") == [1, 2] and dataset.current_version("hearts") == 1
