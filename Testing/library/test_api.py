"""`import mper`: the names that a notebook needs, and their documentation, whose examples run here."""

from __future__ import annotations

import doctest
import inspect
import pydoc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_data import blob_dataset
from small_models import random_bundle
from small_series import stack, write_classic

import mper
from mper import api
from mper.inference.prediction import Prediction
from mper.inference.predictor import Predictor
from mper.io import write_volume
from mper.labels import make_label
from mper.volume import Volume

FUNCTIONS = sorted(name for name in mper.__all__ if inspect.isfunction(getattr(mper, name)))


def examples() -> list[doctest.DocTest]:
    """Those of the package, then those of each function in the order of the file, as a reader would try them."""
    finder = doctest.DocTestFinder()
    first = finder.find(mper, "mper", globs={})
    here = [found for found in finder.find(api, "mper.api", globs={}) if found.examples]
    order = ["read_scan", "read_segmentation", "load_model", "Model.segment", "write_segmentation", "write_volume"]
    return [found for found in first if found.name == "mper"] + sorted(
        here, key=lambda found: (_place(found.name.removeprefix("mper.api."), order), found.lineno or 0)
    )


def _place(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def test_the_examples_in_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The examples segment one scan with two models: two predictions serve them all.
    known: dict[str, Prediction] = {}
    predict = Predictor.predict

    def once(self: Predictor, scan: Volume, **options: Any) -> Prediction:
        name = self.bundle.card.name
        if name not in known:
            known[name] = predict(self, scan, **options)
        return known[name]

    monkeypatch.setattr(Predictor, "predict", once)
    names: dict[str, Any] = {"mper": mper}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    for found in examples():
        found.globs = names
        runner.run(found, out=told.append, clear_globs=False)
    assert runner.failures == 0, "".join(told)
    assert runner.tries > 30


def test_every_function_shows_an_example_and_its_parameters() -> None:
    for name in FUNCTIONS:
        text = inspect.getdoc(getattr(mper, name)) or ""
        assert name == "sample_scan" or f"mper.{name}(" in text, f"{name} shows no example of itself"
        assert getattr(mper, name).__annotations__, name


def test_help_shows_the_walk_and_every_name() -> None:
    text = pydoc.plain(pydoc.render_doc(mper))
    assert ">>> model = mper.load_model" in text
    missing = [name for name in mper.__all__ if name not in text]
    assert not missing
    assert set(mper.__all__) <= set(dir(mper))
    assert mper.__all__ == api.__all__


def test_names_come_on_first_use_and_reading_a_scan_needs_no_torch() -> None:
    code = """
import sys, mper
assert not {'torch', 'SimpleITK', 'pydicom', 'numpy'} & set(sys.modules), sorted(sys.modules)
mper.read_scan(mper.sample_scan())
assert 'torch' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'segment'; it offers .*load_model"):
        _ = mper.segment


def test_a_mask_without_names_or_source_is_refused_with_what_to_give(
    tmp_path: Path, blob_volume: tuple[Volume, mper.Segmentation]
) -> None:
    _, mask = blob_volume
    write_volume(tmp_path / "mask.nrrd", mask.labelmap)
    with pytest.raises(ValueError, match=r"labels=\['LA'\]"):
        mper.read_segmentation(tmp_path / "mask.nrrd")
    with pytest.raises(ValueError, match="give its folder as source"):
        mper.read_segmentation(tmp_path / "seg.dcm")
    with pytest.raises(ValueError, match="give its folder as source"):
        mper.write_segmentation(tmp_path / "seg.dcm", mask)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_dicom_series_gets_a_dicom_segmentation_that_reads_back(tmp_path: Path) -> None:
    volume = stack()
    write_classic(tmp_path / "series", volume)
    scan = mper.read_scan(tmp_path / "series")
    bundle = random_bundle()
    coded = replace(bundle, card=replace(bundle.card, labels=(make_label(1, "LA"),)))
    model = api.Model(Predictor(coded, "cpu"))
    mask = model.segment(scan).segmentation
    report = mper.write_segmentation(tmp_path / "seg.dcm", mask, source=tmp_path / "series")
    assert report is not None and report.passed
    back = mper.read_segmentation(tmp_path / "seg.dcm", source=tmp_path / "series")
    assert (back.labelmap.array == mask.labelmap.array).all()
    assert back.provenance[1].type == "AUTOMATIC"


def test_of_a_cine_one_phase_is_read(tmp_path: Path) -> None:
    first = stack()
    second = first.with_array(first.array + 500)
    uid = write_classic(tmp_path / "cine", first, lambda _, image: setattr(image, "TriggerTime", 0))
    write_classic(tmp_path / "cine", second, lambda _, image: setattr(image, "TriggerTime", 400), uid, prefix="EM")
    with pytest.raises(ValueError, match="2 phases"):
        mper.read_scan(tmp_path / "cine")
    with pytest.raises(ValueError, match="not one phase; give a number from 1 to 2"):
        mper.read_scan(tmp_path / "cine", phase="all")
    assert (mper.read_scan(tmp_path / "cine", phase=2).array == second.array).all()
    assert (mper.read_scan(tmp_path / "cine", uid, phase="1").array == first.array).all()


def test_training_on_what_cannot_be_trained_on_leaves_no_run(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "blobs", 2, labelled=0)
    with pytest.raises(ValueError, match="none of the 2 cases of split 'train' has a label"):
        mper.train(dataset, steps=1)
    dataset.lock_holdout("train")
    with pytest.raises(ValueError, match="locked hold-out"):
        mper.train(str(tmp_path / "blobs"), steps=1)
    with pytest.raises(ValueError, match="no split 'nothing'"):
        mper.train(dataset, split="nothing")
    assert not (tmp_path / "blobs" / "runs").exists()


def test_choices_that_do_not_fit_leave_no_run(tmp_path: Path) -> None:
    dataset = blob_dataset(tmp_path / "blobs", 3, labelled=2)
    dataset.add_to_split("bare", ["case2"])
    dataset.add_to_split("few", ["case1"])
    for choices, words in (
        ({"also": ("bare",)}, "none of the 1 cases of split 'bare' has a label"),
        ({"also": ("few",), "labeled": 2}, "2 labelled cases were asked for, and split 'few' has 1"),
        ({"name": "a/b"}, "a/b"),
        ({"start_from": "la", "network": "unet3d"}, "has the backbone vnet"),
        ({"start_from": "la", "patch": (1, 160, 160)}, "for a network of volumes"),
    ):
        with pytest.raises(ValueError, match=words):
            mper.train(dataset, **{"steps": 1, "device": "cpu", **choices})
    assert not (tmp_path / "blobs" / "runs").exists()
    with pytest.raises(ValueError, match="multiples of 16"):  # as the scans tell, when they have been read
        mper.train(dataset, steps=1, device="cpu", patch=(1, 16, 16))
    assert list((tmp_path / "blobs" / "runs").iterdir()) == []
