"""The model of a run: its weights, and a card that says how it was trained and for which scans."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from mper import __version__
from mper.dataloading.patch_sampler import PatchSampler
from mper.labels import Label
from mper.methods.base import Method
from mper.models.bundle import ModelBundle
from mper.models.card import Card
from mper.training.config import TrainConfig
from mper.training.data import TrainingData
from mper.training.trained_scans import TRAINED_ON

_PERCENTS = (5, 25, 50, 75, 95)
_FEWEST_VOLUMES = 3  # of a structure, from which the usual ones are known
_TURNED_AXES = (1, 2)  # along which the published augmentation flips


def make_bundle(
    config: TrainConfig,
    data: TrainingData,
    method: Method,
    *,
    steps: int,
    seconds: float,
    device: str,
    processes: int,
    scans: Collection[str],
    about: Mapping[str, object],
) -> ModelBundle:
    """The model as it stands.

    Parameters
    ----------
    config, data, method :
        Of the run.
    steps, seconds : int, float
        How long it has trained.
    device, processes : str, int
        What it trains on, in words, and how many processes share the work.
    scans : collection of str
        The scans that it was trained on, see `mper.training.trained_scans`.
    about : mapping
        What else goes into `mper.models.card.Card.about`.
    """
    state = {name: value.detach().cpu().clone() for name, value in method.result.state_dict().items()}
    training = {
        **{k: v for k, v in asdict(config).items() if k not in ("dataset", "start_from")},
        "dataset": Path(config.dataset).name,
        "start_from": Path(config.start_from).name if config.start_from else None,
        "steps": steps,
        "seconds": round(seconds),
        "labelled_cases": len(data.sampler.labelled),
        "partly_labelled_cases": data.sampler.partly_labelled,
        "unlabelled_cases": len(data.sampler.unlabelled),
        TRAINED_ON: sorted(scans),
        "hardware": f"{device}, {platform.system()}",
        "processes": processes,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "mper": __version__,
    }
    about = {"training": training, **_with_known(dict(about), data.start, data.labels)}
    if data.localization is not None:
        about.pop("locator", None)
    if method.references is not None:
        about["references"] = {"cases": list(method.references.cases)}
    names = ", ".join(label.name for label in data.labels)
    affine = config.make_recipe().affine
    card = Card(
        name=config.name or "model",
        version="1",
        title=f"{names}: trained with {config.method} on {training['dataset']}",
        labels=data.labels,
        network=asdict(method.config),
        preprocessing=asdict(data.plan.preprocessing),
        window=data.plan.patch,
        largest_component=config.keep_largest,
        mirror_axes=tuple(config.flip_axes if affine else _TURNED_AXES),
        about=about,
    )
    return ModelBundle(card, state, references=method.references, localization=data.localization)


def expected_ranges(data: TrainingData) -> dict[str, object]:
    """Which intensities and volumes are usual for the model, for its card."""
    return {"intensity": _intensity_range(data.sampler), "volume_ml": _volume_range(data.sampler, data.labels)}


def quality_of(dice: Mapping[str, float] | None, cases: int, drafts: int = 0) -> object:
    """The quality of a model, for its card: mean Dice of each structure over so many labelled cases of the hold-out.

    `drafts` of their labels are unedited masks of a model.
    """
    if not dice:
        return "not measured"
    of_a_model = f" ({drafts} with the unedited mask of a model as label)" if drafts else ""
    words = f"{cases} case{'' if cases == 1 else 's'} of the locked hold-out{of_a_model}"
    return {
        "cases": f"{words}: not trained on, used for no choice",
        "mean": {"dice": round(float(np.mean(list(dice.values()))), 4)},
        "labels": {name: {"dice": value} for name, value in dice.items()},
    }


def _intensity_range(sampler: PatchSampler) -> dict[str, list[float]]:
    """Lowest and highest of some percentiles of the normalised training scans."""
    cases = (*sampler.labelled, *sampler.unlabelled)
    values = np.array([np.percentile(case.image.cpu().numpy(), _PERCENTS) for case in cases])
    return {
        str(p): [round(float(v.min()), 3), round(float(v.max()), 3)] for p, v in zip(_PERCENTS, values.T, strict=True)
    }


def _volume_range(sampler: PatchSampler, labels: tuple[Label, ...]) -> dict[str, list[float]]:
    """Least and largest volume of each structure in mL, over the scans that are labelled throughout and show it whole.

    Of structures that few of them show there is none: what one person has says nothing of the next.
    """
    volumes: dict[str, list[float]] = {}
    for case in sampler.labelled:
        if case.label is None or case.voxel_ml is None or not case.shows_whole_structures:
            continue
        voxels = case.label.flatten().bincount(minlength=len(labels) + 1).tolist()
        for label, count in zip(labels, voxels[1:], strict=True):
            if count:
                volumes.setdefault(label.name, []).append(round(count * case.voxel_ml, 1))
    return {name: [min(found), max(found)] for name, found in volumes.items() if len(found) >= _FEWEST_VOLUMES}


def _with_known(about: dict[str, object], start: ModelBundle | None, labels: tuple[Label, ...]) -> dict[str, object]:
    """What stays true of a fine-tuned model of the same structures: its locator, and the ranges of its scans.

    Ranges of intensity and volume include those of the model that it started from: a few own scans say little.
    """
    if start is None or {x.name for x in start.card.labels} != {x.name for x in labels}:
        return about
    known = {key: start.card.about[key] for key in ("locator",) if key in start.card.about}
    for key in ("intensity", "volume_ml"):
        ranges = dict(about.get(key) or {})  # type: ignore[call-overload]
        for name, (low, high) in start.card.about.get(key, {}).items():
            own_low, own_high = ranges.get(name, (low, high))
            ranges[name] = [min(low, own_low), max(high, own_high)]
        known[key] = ranges
    return {**about, **known}
