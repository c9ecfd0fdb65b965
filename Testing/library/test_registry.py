"""A new method, or a new backbone, is one file and one entry: here both are added and used everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_data import blob_dataset
from torch import nn

from mper.benchmark.plan import Variant, suits
from mper.cli import main
from mper.dataloading.patch_sampler import Batch
from mper.datasets.dataset import Dataset
from mper.engine.schemas.runs import RunRequest
from mper.engine.services.engine import Engine
from mper.engine.services.training_plan import plan_run
from mper.engine.settings import Client, Settings
from mper.methods import base
from mper.methods.base import Losses, Method
from mper.methods.losses import region_loss
from mper.methods.recipe import Recipe
from mper.methods.registry import METHODS, MethodInfo, default_method
from mper.models.bundle import ModelBundle
from mper.nets.registry import BACKBONES, DEFAULT_BACKBONES, Backbone
from mper.utils.errors import OK, USAGE

pytestmark = pytest.mark.usefixtures("one_thread")


class Shallow(nn.Module):
    """A backbone of one convolution and a classifier."""

    def __init__(self, inputs: int, classes: int, filters: int, dropout: tuple[float, float]):
        super().__init__()
        self.convolution = nn.Conv3d(inputs, filters, 3, padding=1)
        self.classifier = nn.Conv3d(filters, classes, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.convolution(image)
        return self.classifier(features), features, features


class Sceptic(Method):
    """Learns from labels, and on unlabelled patches to be of two minds."""

    def patch_counts(self, t: float) -> tuple[int, int]:
        return self.batch, 1

    def forward(self, batch: Batch, t: float) -> Losses:
        output = self.student(batch.image)
        n = batch.labelled
        labelled = region_loss(output.logits[:n], batch.label[:n], torch.ones_like(batch.label[:n]))
        certain = output.logits[n:].square().mean()
        return Losses(labelled + certain, {"labelled": labelled.detach(), "certain": certain.detach()})


BACKBONE = Backbone("shallow", "One convolution, for volumes", 3, f"{__name__}:Shallow", filters=4)
METHOD = MethodInfo(
    "sceptic",
    "Semi-supervised: doubt",
    "Keeps scores of unlabelled patches small.",
    f"{__name__}:Sceptic",
    default_backbones={3: "shallow"},
    unused_changes=("cutmix",),
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry for the method and one for its backbone, and nothing else."""
    monkeypatch.setitem(BACKBONES, BACKBONE.kind, BACKBONE)
    monkeypatch.setitem(METHODS, METHOD.name, METHOD)
    monkeypatch.setattr(base, "_PATCHES", {2: 4, 3: 2})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_dataset(tmp_path_factory.mktemp("registry") / "data", 3, (16, 24, 24), labelled=2).path


def engine(data: Path) -> Engine:
    """An engine that nobody started."""
    return Engine(Settings((Client("local", "token"),), data.parent / "spool", (data.parent,)))


def test_a_new_method_is_trained_by_the_command_line(
    added: None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--steps", "2", "--batch", "2", "--patch", "16,16,16", "--device", "cpu", "--out", str(run)]
    assert main(["train", str(data), "--method", "sceptic", *options]) == OK
    bundle = ModelBundle.load(run / "model")
    assert bundle.network.kind == "shallow" and bundle.network.filters == 4
    told = bundle.card.about["training"]
    assert (told["method"], told["steps"], told["labelled_cases"], told["unlabelled_cases"]) == ("sceptic", 2, 2, 1)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all("certain" in event for event in events if event["event"] == "step")
    assert (bundle.state["prototypes.vectors"].norm(dim=-1) > 0).all()


def test_a_new_method_is_listed_with_its_description(added: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == OK
    text = capsys.readouterr().out
    assert METHOD.description in text and f"  {BACKBONE.name}" in text and BACKBONE.title in text
    assert main(["train", "data", "--method", "unheard-of"]) == USAGE
    assert "sceptic" in capsys.readouterr().err


def test_a_new_method_is_planned_and_named_to_the_trainer_panel(added: None, data: Path) -> None:
    body = RunRequest(method="sceptic", network="shallow", device="cpu", start_from=None)
    plan = plan_run(engine(data), Dataset.open(data), "data", body)
    answer = plan.answer().model_dump()
    assert answer["ready"] and answer["method"] == "sceptic" and answer["unlabelled"] == 1
    (entry,) = [each for each in answer["options"]["methods"] if each["name"] == "sceptic"]
    assert (entry["title"], entry["description"]) == (METHOD.title, METHOD.description)
    assert {"name": "shallow", "title": BACKBONE.title} in answer["options"]["backbones"]


def test_a_new_method_is_compared_where_it_can_be(added: None) -> None:
    assert suits("sceptic", "la") and not suits("sceptic", "acdc")
    assert Variant.parse("sceptic:no-affine").without == ("affine",)
    with pytest.raises(ValueError, match="unknown variant 'sceptic:k=5'"):
        Variant.parse("sceptic:k=5")
    with pytest.raises(ValueError, match="method sceptic has no change 'cutmix'"):
        Recipe.named("plus", ("cutmix",), "sceptic")


# ---------------------------------------------------------------------- the entries


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_entry_of_a_method_describes_what_is_there(method: MethodInfo) -> None:
    assert issubclass(method.load(), Method)
    assert method.title and method.description.endswith(".")
    for dimensions, kind in method.default_backbones.items():
        assert BACKBONES[kind].dimensions == dimensions and method.takes(BACKBONES[kind])
    assert set(method.unused_changes) < set(Recipe.changes("mper"))
    assert Recipe.named("plus", method.loss_terms, method.name).omitted_terms == method.loss_terms


def test_each_default_is_one_method() -> None:
    for use in ("semi-supervised", "supervised"):
        assert len([method for method in METHODS.values() if use in method.default_for]) == 1
    assert (default_method(unlabelled=True), default_method(unlabelled=False)) == ("mper", "supervised")
    assert {n: BACKBONES[kind].dimensions for n, kind in DEFAULT_BACKBONES.items()} == {2: 2, 3: 3}


@pytest.mark.parametrize("kind", BACKBONES)
def test_entry_of_a_backbone_describes_what_is_there(kind: str) -> None:
    entry = BACKBONES[kind]
    shape = (entry.divisor, 2 * entry.divisor, entry.divisor)[3 - entry.dimensions :]
    with torch.no_grad():
        logits, embedding, *_ = entry.build(2, 8, (0.5, 0.5), 2).eval()(torch.randn(1, 1, *shape))
    assert logits.shape == (1, 2, *shape) and embedding.shape == (1, 8, *shape)
