"""Whether a training fits the model that it starts from: its options, and its scans."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mper.dataloading.preprocessing import Preprocessing, normalise
from mper.datasets.case import Case
from mper.inference.plausibility import has_unusual_percentiles
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.methods.registry import check_backbone
from mper.models.card import Card
from mper.nets.registry import BACKBONES
from mper.roi import bounding_box
from mper.training.config import TrainConfig
from mper.training.planning import check_patch, scan_dimensions
from mper.utils.coded import Coded

_LOOKED_AT = 3  # labelled scans
_MARGIN_MM = 25.0  # around the label, as a localisation takes
_MARGIN_VOXELS = 15  # where the spacing is unknown


def check_start(config: TrainConfig, start: Card) -> None:
    """Check that the options fit the model to start from, as far as its card tells.

    Raises
    ------
    ValueError
        If the method cannot train its network, or another network or number of prototypes is asked for.
    """
    backbone = BACKBONES.get(str(start.network.get("kind")))
    if backbone is None:  # of another version, which is said when it is loaded
        return
    if config.network not in (None, backbone.name):
        line = (
            f"--backbone {config.network} does not fit --from: model {start.name} has the backbone {backbone.name}; "
            "leave --backbone out, or train from scratch without --from"
        )
        raise ValueError(Coded(line, "start-backbone", model=start.name, backbone=backbone.name))
    check_backbone(config.method, backbone.kind)
    prototypes = start.network.get("prototypes")
    if config.prototypes not in (None, prototypes):
        raise ValueError(
            f"--prototypes {config.prototypes} does not fit --from: model {start.name} has {prototypes} a class; "
            "leave --prototypes out, or train from scratch without --from"
        )
    if config.patch is not None:
        check_patch(config.patch, backbone.dimensions)


def unlike_start(cases: Sequence[Case], start: Card) -> str | None:
    """A sentence that says how the scans differ from those that the start model was trained on; None if they do not.

    Looked at are the first labelled ones: whether they are volumes or stacks of thick slices, and their intensities
    around the label against the card's (``about["intensity"]``).

    Parameters
    ----------
    cases : sequence of Case
        Labelled ones.
    start : Card
    """
    looked_at = cases[:_LOOKED_AT]
    backbone = BACKBONES.get(str(start.network["kind"]))
    if not looked_at or backbone is None:  # of another version, which is said when it is loaded
        return None
    modality = str(start.about.get("modality") or "")
    trained_on = f"the scans that {start.name} was trained on" + (f" ({modality})" if modality else "")
    if scan_dimensions(looked_at) != backbone.dimensions:
        ours, theirs = ("stacks of thick slices", "volumes")[:: 1 if backbone.dimensions == 3 else -1]
        line = f"the scans are {ours}, {trained_on} are {theirs}: choose another start, or train from scratch"
        return Coded(line, "other-slices" if backbone.dimensions == 3 else "other-volumes", model=start.name)
    unlike = [case.id for case in looked_at if _looks_unlike(case, start)]
    if not unlike:
        return None
    names = ", ".join(unlike)
    line = (
        f"the intensities of {names} are unlike those of {trained_on}: check the result on the hold-out, and compare "
        "with a training from scratch"
    )
    return Coded(line, "unlike-start", cases=names, model=start.name)


def _looks_unlike(case: Case, start: Card) -> bool:
    newest = case.revisions()[-1]
    percents = tuple(float(percent) for percent in start.about.get("intensity", {}))
    wanted = Preprocessing(**start.preprocessing)
    found = _percentiles(case.path, newest.number, newest.when, case.labels, wanted, percents)
    return found is None or has_unusual_percentiles(found, start)


@lru_cache(maxsize=256)
def _percentiles(
    path: Path,
    revision: int,
    _when: str,
    labels: tuple[Label, ...],
    preprocessing: Preprocessing,
    percents: tuple[float, ...],
) -> tuple[float, ...] | None:
    """Percentiles of the normalised intensities around a label, None where the scan is constant there.

    A revision that was made at a time never changes.
    """
    case = Case(path, labels)
    image, mask = case.image(), case.label(revision)
    window = None if mask is None else bounding_box((mask.array != BACKGROUND) & (mask.array != UNLABELLED))
    part = image.array
    if window is not None:
        spacing = image.geometry.spacing_mm
        margins = [_MARGIN_VOXELS] * 3 if spacing is None else [round(_MARGIN_MM / mm) for mm in spacing]
        part = part[tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(window, margins, strict=True))]
    try:
        normalised = normalise(torch.from_numpy(part.astype(np.float32)), preprocessing)
    except ValueError:
        return None
    return tuple(np.percentile(normalised.numpy(), percents).tolist())
