"""Which unlabelled scans show something else than the labelled ones, as another organ, or lie the other way.

A mean teacher would label structures there that do not exist. They are told by the masks that the model makes of them,
whose shape is then unlike that of every label. The distance of their embeddings from the model's prototypes does not
tell them: the last layer of a network knows its classes and nothing else. Of masks of a V-Net at 2 mm, in standard
deviations of the training labels' shape: left atria 0.6 to 1.8, those of another sequence 2.0 to 2.9, cine scans 3.5 to
3.9, atria with exchanged axes 2.7 to 3.2; of a U-Net for hearts: hearts 0.6 to 1.8, others 5.7 and more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mper.dataloading.preprocessing import WorkingGrid
from mper.inference.evidence import of_mask
from mper.inference.predictor import Predictor
from mper.models.bundle import ModelBundle
from mper.models.calibration import Calibration
from mper.progress import Progress, Report
from mper.training.run_clock import Clock

if TYPE_CHECKING:
    from mper.volume import Volume

_UNLIKE = -3.0  # evidence of the shape, in standard deviations


def unlike_scans(
    bundle: ModelBundle,
    usual: Mapping[str, tuple[float, float]],
    labelled: Sequence[Volume],
    scans: Iterable[tuple[str, Volume]],
    *,
    device: str = "auto",
    seconds: float,
    report: Report,
    clock: Clock = time.monotonic,
) -> Iterator[tuple[str, bool]]:
    """The ids of scans, and whether a model segments something of another shape than that of the labels in each.

    Parameters
    ----------
    bundle : ModelBundle
    usual : mapping
        Shapes of the labels, from `mper.training.calibration.usual_shapes`.
    labelled : sequence of Volume
        Some labelled scans: where the masks of these are unlike the labels, the model knows too little to tell.
    scans : iterable of (str, Volume)
        Unlabelled ones; those that there is no time for are left out.
    device : {"auto", "cpu", "cuda", "mps"}
    seconds : float
    report : Report
        May raise, which ends it.
    clock : Clock
        Measures the seconds.
    """
    begin = clock()
    predictor = Predictor(bundle, device)
    card, dimensions = bundle.card, bundle.network.dimensions
    class_of = np.zeros(256, np.uint8)
    for number, label in enumerate(card.labels, start=1):
        class_of[label.value] = number

    def is_unlike(image: Volume) -> bool:
        mask = predictor.predict(image).segmentation.labelmap
        grid = WorkingGrid.plan(image.geometry, bundle.preprocessing, dimensions)
        found = of_mask(class_of[mask.array], grid, dimensions, len(card.labels), Calibration(usual=usual))
        return found.get("shape", 0.0) < _UNLIKE

    if any(is_unlike(image) for image in labelled):
        return
    for name, image in scans:
        if clock() - begin > seconds:
            return
        report(Progress(f"looking at {name}"))
        yield name, is_unlike(image)
