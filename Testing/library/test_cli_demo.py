"""The demonstration, its picture, and what `mper doctor` says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import random_bundle

from mper import resources
from mper.cli import main
from mper.cli.demo import demo
from mper.engine.services import diagnostics
from mper.evaluation.sample import sample_dice
from mper.io import read_labelmap, read_segmentation, read_volume
from mper.labels import Segmentation, make_label, prototype_labels
from mper.utils.errors import FAILED, OK
from mper.visualization.figure import draw_segmentation
from mper.volume import Volume


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundled models of a test: a `la` with random weights."""
    folder = tmp_path / "models"
    bundle = random_bundle(preprocessing={"spacing_mm": (2.5, 2.5, 2.5)})
    card = type(bundle.card)(**{**vars(bundle.card), "name": "la", "labels": (make_label(1, "LA"),)})
    type(bundle)(card, bundle.state).save(folder / "la")
    monkeypatch.setattr(resources, "models_dir", lambda: folder)
    return folder


def test_demo_writes_mask_prototypes_and_picture_and_says_so(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "Probe läuft"
    assert main(["demo", "--out", str(out), "--device", "cpu"]) == OK
    said = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"mask.seg.nrrd", "prototypes.seg.nrrd", "demo.png"}
    assert all(str(path) in said for path in out.iterdir())
    scan, mask = read_volume(resources.sample_scan()), read_segmentation(out / "mask.seg.nrrd")
    assert mask.labelmap.geometry.is_close(scan.geometry) and [label.name for label in mask.labels] == ["LA"]
    told = re.search(r"Dice with the expert's mask: (\d\.\d+) \(one case", said)
    assert told is not None and float(told[1]) == pytest.approx(sample_dice(mask), abs=5e-4)


def test_the_reference_of_the_sample_scan_agrees_with_itself() -> None:
    reference = read_labelmap(resources.sample_scan().with_name("la-reference.nrrd"))
    assert reference.geometry.is_close(read_volume(resources.sample_scan()).geometry)
    assert sample_dice(Segmentation(reference, (make_label(1, "LA"),))) == 1
    assert sample_dice(Segmentation(reference, (make_label(1, "RV"),))) is None
    volume = Segmentation(reference, (make_label(1, "LA"),)).volumes_ml()["LA"]
    assert volume is not None and 20 < volume < 150


def test_demo_without_its_model_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "models_dir", lambda: tmp_path)
    assert main(["demo", "--out", str(tmp_path / "out")]) == FAILED
    assert capsys.readouterr().err.startswith("mper: error: no model 'la'; known are none")
    assert not (tmp_path / "out").exists()


def test_the_picture_shows_the_mask_where_it_is(tmp_path: Path, blob_volume: tuple[Volume, Segmentation]) -> None:
    scan, mask = blob_volume
    empty = Segmentation(scan.with_array(np.zeros(scan.array.shape, np.uint8)), mask.labels)
    names = prototype_labels(mask.labels, 2)
    prototypes = scan.with_array(np.where(mask.labelmap.array == 1, 4, 1).astype(np.uint8))
    pictures = {}
    for name, drawn, map_ in (("mask", mask, None), ("empty", empty, None), ("both", mask, prototypes)):
        draw_segmentation(tmp_path / f"{name}.png", scan, drawn, map_, 2, "Ünïcode title", ["a fact"])
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    outline = np.abs(pictures["mask"] - (255, 209, 102)).sum(axis=-1) < 30
    assert outline.sum() > 50
    assert not (np.abs(pictures["empty"] - (255, 209, 102)).sum(axis=-1) < 30).any()
    assert len(pictures["both"]) > len(pictures["mask"])
    for value in (1, 4):  # in the legend, at least
        assert (pictures["both"] == names[value - 1].colour).all(axis=-1).sum() > 100


def test_doctor_is_content_with_a_sound_machine(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_LITTLE_MEMORY", "_LITTLE_DISK"):
        monkeypatch.setattr(diagnostics, name, 0)
    monkeypatch.setattr(diagnostics, "_DICE_EXPECTED", -1)  # the model of this test knows nothing
    assert main(["doctor"]) == OK
    said = capsys.readouterr().out
    assert "Everything works." in said and "la 1.0.0 (LA): complete" in said
    for word in ("torch", "cores", "GB free", "segmented in"):
        assert word in said
    assert str(Path.home()) not in said and str(models) not in said


def _tampered(models: Path) -> None:
    weights = models / "la" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_tampered, r"model +Models.la: weights.safetensors is not the file"),
        (lambda models: (models / "la" / "card.json").unlink(), r"self-test +no model 'la'"),
        (lambda _: None, r"self-test .*too low"),
    ],
    ids=["tampered model", "no model", "wrong masks"],
)
def test_doctor_names_what_is_not_as_it_should_be(
    spoil: Callable[[Path], object],
    told: str,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(diagnostics, "_DICE_EXPECTED", 2)
    spoil(models)
    assert main(["doctor"]) == FAILED
    said = capsys.readouterr().out
    assert re.search(rf"BAD +{told}", said) and "checks fail" in said and str(models) not in said


def test_doctor_survives_a_check_that_fails(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(f"the disk below {Path.home() / 'scans'} is gone")

    monkeypatch.setattr(diagnostics, "_disk", broken)
    findings = {finding.subject: finding for finding in diagnostics.examine()}
    assert (
        findings["disk"] == diagnostics.Finding("disk", f"the disk below {Path('~') / 'scans'} is gone", False)
        and findings["Python"].good
    )


def test_demo_is_told_from_the_library_too(models: Path, tmp_path: Path) -> None:
    beats = []
    made = demo(tmp_path / "out", device="cpu", report=beats.append)
    assert made.model == "la 1.0.0" and made.seconds <= made.seconds_in_all and len(beats) > 3
    assert [path.name for path, _ in made.files] == ["mask.seg.nrrd", "prototypes.seg.nrrd", "demo.png"]
