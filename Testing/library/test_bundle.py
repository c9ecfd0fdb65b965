"""Bundles: weights come back within bounds, and nothing but the weights of the card is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import random_bundle

from mper.models.bundle import ModelBundle, _pack, _unpack
from mper.models.card import CARD, WEIGHTS

KINDS = pytest.mark.parametrize("kind", ["vnet", "unet"])


@KINDS
@pytest.mark.parametrize("storage, share", [("float32", 0.0), ("float16", 2**-11), ("int8", 0.5 / 127)])
def test_weights_come_back_within_the_bounds_of_their_storage(
    tmp_path: Path, kind: str, storage: str, share: float
) -> None:
    bundle = random_bundle(kind, classes=3)
    loaded = ModelBundle.load(bundle.save(tmp_path / "model", storage))
    assert loaded.card == replace(bundle.card, network=loaded.card.network, preprocessing=loaded.card.preprocessing)
    assert loaded.network == bundle.network and loaded.preprocessing == bundle.preprocessing
    assert loaded.state.keys() == bundle.state.keys()
    for name, value in bundle.state.items():
        found = loaded.state[name]
        assert found.dtype == value.dtype
        if value.dim() < 4:
            assert torch.equal(found, value), name  # biases, batch norm, prototypes
        else:
            largest = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True)
            assert ((found - value).abs() <= share * largest * 1.01 + 1e-7).all(), name
            assert share == 0 or not torch.equal(found, value)


def test_smaller_storage_is_smaller(tmp_path: Path) -> None:
    bundle = random_bundle("vnet")
    sizes = [
        (bundle.save(tmp_path / storage, storage) / WEIGHTS).stat().st_size
        for storage in ("float32", "float16", "int8")
    ]
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.65 * sizes[1]


@KINDS
def test_network_that_is_built_gives_the_same_answer(tmp_path: Path, kind: str) -> None:
    bundle = random_bundle(kind)
    built = ModelBundle.load(bundle.save(tmp_path / "model", "float32")).build()
    image = torch.randn(1, 1, *[32] * built.config.dimensions)
    with torch.no_grad():
        assert torch.equal(built(image).logits, bundle.build()(image).logits)
    assert not built.training and bundle.build() is not built


@pytest.mark.parametrize("inside", ["", "my model/"])
def test_zip_of_the_files_or_of_their_folder_is_a_bundle(tmp_path: Path, inside: str) -> None:
    bundle = random_bundle("unet")
    folder = bundle.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, inside + file.name)
    loaded = ModelBundle.load(tmp_path / "model.zip")
    assert all(torch.equal(value, loaded.state[name]) for name, value in ModelBundle.load(folder).state.items())
    assert loaded.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_model_is_never_overwritten(tmp_path: Path) -> None:
    bundle = random_bundle("unet")
    bundle.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    with pytest.raises(FileExistsError, match="never overwritten"):
        bundle.save(tmp_path / "model", "int8")
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_saving_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        random_bundle("unet").save(tmp_path / "new" / "model")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_model_is_as_readable_as_other_folders(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = random_bundle("unet").save(tmp_path / "model")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_unknown_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown storage 'pickle'; known are float32, float16, int8"):
        random_bundle("unet").save(tmp_path / "model", "pickle")


# ---------------------------------------------------------------------- what must not load


def saved(folder: Path) -> Path:
    return random_bundle("unet").save(folder / "model")


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        ModelBundle.load(path)
    assert "\n" not in str(caught.value)


def with_weights(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Other weights, with a card that vouches for them."""
    save_file(tensors, path / WEIGHTS)
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    card["weights"]["sha256"] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")
    return path


def test_weights_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(bytes(data))
    refused(path, "is not the file that the model's card describes")


def test_missing_or_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:1000])
    refused(path, "is not the file that")
    (path / WEIGHTS).unlink()
    refused(path, "weights.safetensors is missing")


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / WEIGHTS).write_bytes(b"\x80\x04pickle" * 100)
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    card["weights"]["sha256"] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")
    refused(path, "the model cannot be read")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "model")
    tensors = load_file(path / WEIGHTS)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    refused(with_weights(path, tensors), "holds NaN or infinity")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [2**63]),
        ("shape", [10**30]),
        ("shape", [2**31, 2**31, 2**31]),
        ("shape", [-1]),
        ("data_offsets", [0, 2**63]),
        ("data_offsets", [0, 10**30]),
        ("data_offsets", [5, 1]),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(tmp_path: Path, key: str, value: list[int]) -> None:
    path = saved(tmp_path / "model")
    data = (path / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[next(name for name in header if name != "__metadata__")][key] = value
    text = json.dumps(header).encode()
    changed = len(text).to_bytes(8, "little") + text + data[8 + length :]
    (path / WEIGHTS).write_bytes(changed)
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    card["weights"]["sha256"] = hashlib.sha256(changed).hexdigest()
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")
    refused(path, "the model cannot be read")


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for member in {CARD, WEIGHTS} - {name}:
            archive.write(path / member, member)
        with archive.open(name, "w") as stream:
            for _ in range(80):
                stream.write(bytes(1 << 20))
    unpacked: list[str] = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile, "read", lambda self, entry: (unpacked.append(entry.filename), read(self, entry))[1]
    )
    refused(tmp_path / "bomb.zip", f"{name} announces 83886080 bytes")
    assert name not in unpacked


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tensors = load_file(path / WEIGHTS)
    name = next(name for name in tensors if name.endswith("classifier.weight"))
    refused(
        with_weights(path, {n: v for n, v in tensors.items() if n != name}), "1 tensors differ, first 'backbone.class"
    )
    refused(with_weights(path, {**tensors, "more": torch.zeros(1)}), "1 tensors differ, first 'more'")
    refused(with_weights(path, {**tensors, name: tensors[name][:1].clone()}), "1 tensors differ")
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    card["network"]["kind"] = "vnet"
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")
    refused(with_weights(path, tensors), "do not fit the network of model")


def test_eight_bit_weights_without_their_scale_are_refused(tmp_path: Path) -> None:
    path = random_bundle("unet").save(tmp_path / "model", "int8")
    tensors = {n: v for n, v in load_file(path / WEIGHTS).items() if not n.endswith("0.weight.scale")}
    refused(with_weights(path, tensors), "the model cannot be read")


@pytest.mark.parametrize(
    "entry, value",
    [
        ("network", {"kind": "resnet", "classes": 2, "dropout": [0, 0]}),
        ("network", {"kind": "unet", "classes": 2}),
        ("network", {"kind": "unet", "classes": 2, "dropout": [0, 0], "layers": 3}),
        ("preprocessing", {"magic": 1}),
        ("preprocessing", {"normalisation": "magic"}),
        ("network", {"kind": "unet", "classes": 2, "filters": 10**12, "dropout": [0, 0]}),
        ("network", {"kind": "unet", "classes": 2, "dropout": []}),
        ("preprocessing", {"spacing_mm": [1e300, 1, 1]}),
        ("preprocessing", {"spacing_mm": [float("nan"), 1, 1]}),
    ],
)
def test_card_that_describes_no_network_or_preprocessing_is_refused(tmp_path: Path, entry: str, value: object) -> None:
    path = saved(tmp_path)
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    card[entry] = value
    (path / CARD).write_text(json.dumps(card), encoding="utf-8")
    refused(path, "does not describe a network|unknown|a spacing in mm must be")


def test_damaged_zip_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in folder.iterdir():
            archive.write(part, part.name)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    refused(file, "is not a model")
    at = len(data) // 3  # within the packed weights
    file.write_bytes(data[:at] + bytes(64) + data[at + 64 :])
    refused(file, "is not a model|is not the file")


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_parameter_that_is_named_scale_is_no_scale_of_another(storage: str) -> None:
    state = {"layer.scale": torch.tensor([0.5, 2.0]), "layer.weight": torch.ones(2, 1, 3, 3)}
    back = _unpack(_pack(state, storage))
    assert back.keys() == state.keys() and torch.equal(back["layer.scale"], state["layer.scale"])
