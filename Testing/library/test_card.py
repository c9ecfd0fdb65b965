"""The card of a bundle: there and back, and every kind of damage in one line."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mper.labels import make_label
from mper.models.card import CARD, Card, read_bundle

EXAMPLE = Card(
    name="la",
    version="1.0.0",
    title="Left atrium",
    labels=(make_label(1, "LA"), make_label(7, "Größe")),
    network={"kind": "vnet", "classes": 3, "prototypes": 3, "filters": 16, "dropout": [0.5, 0.0]},
    preprocessing={"spacing_mm": [1.0, 1.0, 1.0], "normalisation": "zscore"},
    window=(48, 96, 128),
    largest_component=False,
    mirror_axes=(1, 2),
    about={"licence": "none", "quality": {"mean": 0.9}},
)
WEIGHTS = {"file": "weights.safetensors", "sha256": "0" * 64, "storage": "float16"}


def stored(folder: Path, change: dict[str, Any] | None = None, without: str = "") -> Path:
    entry = {**json.loads(EXAMPLE.to_json(WEIGHTS)), **(change or {})}
    entry.pop(without, None)
    (folder / CARD).write_text(json.dumps(entry), encoding="utf-8")
    return folder


def test_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(EXAMPLE.to_json(WEIGHTS), encoding="utf-8")
    bundle = read_bundle(tmp_path)
    assert bundle.card == EXAMPLE
    assert (bundle.weights_file, bundle.sha256, bundle.storage) == tuple(WEIGHTS.values())


def test_card_is_readable_for_people() -> None:
    text = EXAMPLE.to_json(WEIGHTS)
    assert "Größe" in text and text.count("\n") > 20 and text.endswith("}\n")


def test_card_whose_labels_do_not_fit_the_network_cannot_be() -> None:
    with pytest.raises(ValueError, match="names 1 labels, the network has 3 classes"):
        replace(EXAMPLE, labels=(make_label(1, "LA"),))


def test_place_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model at .*mper models"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", "text")
    for name in ("", "scan.nrrd", "other.zip"):
        with pytest.raises(ValueError, match=r"is not a model: it should be .* card\.json is missing"):
            read_bundle(tmp_path / name)


def test_a_dataset_a_folder_of_models_or_a_run_in_place_of_a_model_is_told_with_what_to_give(tmp_path: Path) -> None:
    data, packed, run = tmp_path / "data", tmp_path / "packed", tmp_path / "run"
    model = data / "models" / "mine"
    for path in (
        *(data / "dataset.json", packed / "shard-1-of-1.h5", run / "config.json", run / "control.json"),
        model / "current",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path, told in (
        (data, f"data is a dataset, not a model; give one of its models, such as {model} ("),
        (packed, "packed is a dataset, not a model; it has no models yet"),
        (model.parent, f"models holds models; give one of them, such as {model}"),
        (run, f"run is a training run, not a model; finish it first: mper train --resume {run}"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)) as caught:
            read_bundle(path)
        assert "damaged" not in str(caught.value) and caught.value.args[0].code == "not-a-model"
    (run / "model").mkdir()
    (run / "model" / CARD).touch()
    with pytest.raises(ValueError, match=re.escape(f"give its model: {run / 'model'}")):
        read_bundle(run)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_other_format_is_told(tmp_path: Path, version: object) -> None:
    with pytest.raises(ValueError, match=f"format {version!r}, this mper reads formats 1 to 2"):
        read_bundle(stored(tmp_path, {"format": version}))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [{"value": 1}]},
        {"labels": [{**json.loads(EXAMPLE.to_json(WEIGHTS))["labels"][0], "colour": [1, 2]}]},
        {"labels": 3},
        {"network": {"classes": 2}},
        {"network": None},
        {"window": None},
        {"weights": {"file": "weights.safetensors"}},
        {"weights": {**WEIGHTS, "file": "../../etc/passwd"}},
        {"weights": {**WEIGHTS, "storage": "pickle"}},
        {"unknown": 1},
        {"name": 3},
        {"window": [10**30, 1, 1]},
        {"window": [0, 16, 16]},
        {"window": [1, 2.5, 3]},
        {"mirror_axes": [0, 7]},
        {"mirror_axes": [1, 1]},
        {"largest_component": "yes"},
        {"about": [1]},
    ],
    ids=str,
)
def test_damaged_card_is_told_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"card\.json is damaged") as caught:
        read_bundle(stored(tmp_path, change))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not re.search(r"[A-Z]\w+Error|__init__", str(caught.value))


@pytest.mark.parametrize("name", ["name", "labels", "network", "window", "weights", "mirror_axes"])
def test_card_that_lacks_something_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"card\.json is damaged"):
        read_bundle(stored(tmp_path, without=name))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_text_that_is_no_card_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"card\.json is damaged") as caught:
        read_bundle(tmp_path)
    assert "\n" not in str(caught.value)
