"""The prediction of a model for a scan: the mask and what was asked for with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from mper.dataloading.preprocessing import WorkingGrid
from mper.inference.localization import Search
from mper.labels import Segmentation
from mper.models.calibration import GOOD, Quality
from mper.roi import Box
from mper.utils.coded import Coded
from mper.volume import Index3, Volume


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Input and output of the network on the working grid of a crop.

    Parameters
    ----------
    values : (filters, *grid.size) float16 tensor on the CPU
        As the network gives them, not normalised.
    grid : WorkingGrid
        Of the crop: `grid.back` leads to its voxels.
    start, stop : (int, int, int)
        The crop ``array[start:stop]`` of the source.
    image : (*grid.size) float16 tensor on the CPU, or None
        Normalised intensities.
    logits : (classes, *grid.size) float16 tensor on the CPU, or None
    """

    values: torch.Tensor
    grid: WorkingGrid
    start: Index3
    stop: Index3
    image: torch.Tensor | None = None
    logits: torch.Tensor | None = None


@dataclass(frozen=True)
class QualityFlag:
    """A reason to check a mask.

    Parameters
    ----------
    code : {"quality", "border", "intensities", "volume", "empty", "noise"}
    words : str
        For people.
    """

    code: str
    words: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of a model for a scan; every array lies on the scan's own grid.

    Parameters
    ----------
    segmentation : Segmentation
        uint8; background outside the region.
    confidence : float
        Of the case, in [0, 1]; `mper.inference.confidence` says what it is.
    structure_confidence : mapping of int to float
        Of each structure that was found, by label value.
    expected_voxels : mapping of int to float
        The sum of each label's probability over the region, by label value: its size in voxels if the probabilities
        were true.
    notes : tuple of str
        Every decision that was made automatically, a sentence each, and the words of the flags.
    flags : tuple of QualityFlag
        Reasons to check the mask.
    quality : Quality or None
        The Dice to expect, and what speaks against the mask; None for an empty mask, and for a model that is not
        calibrated.
    evidence : mapping of str to float
        What the quality was made from (`mper.inference.evidence`).
    search : Search or None
        What the localisation saw in the scan, where it was asked.
    roi_mm : six numbers or None
        Extent x0, x1, y0, y1, z0, z1 of the segmented region in LPS mm; None for the whole scan.
    device, method, seconds : str, str, float
        Where it ran, "whole" or "tiles", and how long it took. No method where the structure was not located in a wide
        field of view: then nothing was computed, and there are no embeddings.
    label_probability : Volume or None
        float16 probability of each voxel's own label, 0 outside the region. This and what follows only where asked for.
    probabilities : (classes, k, j, i) float16 array or None
        As the network gave them, before small parts were dropped; all 0 outside the region.
    prototype_map : Volume or None
        uint8: 1 + class * K + k for the nearest prototype k of the voxel's own class; 0 = not computed.
    similarity_map : Volume or None
        float16: the cosine to it.
    embeddings : Embeddings or None
    """

    segmentation: Segmentation
    confidence: float
    structure_confidence: Mapping[int, float] = field(default_factory=dict)
    expected_voxels: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    flags: tuple[QualityFlag, ...] = ()
    quality: Quality | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    search: Search | None = None
    roi_mm: Box | None = None
    device: str = ""
    method: str = ""
    seconds: float = 0.0
    label_probability: Volume | None = None
    probabilities: npt.NDArray[np.float16] | None = None
    prototype_map: Volume | None = None
    similarity_map: Volume | None = None
    embeddings: Embeddings | None = None

    def __repr__(self) -> str:
        sizes = (
            f"{name} {'of unknown size' if ml is None else f'{ml:.1f} mL'}"
            for name, ml in self.segmentation.volumes_ml().items()
        )
        doubt = "" if self.quality is None or self.quality.level == GOOD else f"; {self.quality.short}"
        return f"Prediction({', '.join(sizes)}; confidence {self.confidence:.2f}{doubt}; {len(self.notes)} notes)"


def required_embeddings(prediction: Prediction) -> Embeddings:
    """Its embeddings.

    Raises
    ------
    ValueError
        If it holds none.
    """
    if prediction.embeddings is None and not prediction.method:
        line = "nothing of this scan was segmented, as the structure was not located in it; "
        raise ValueError(Coded(f"{line}segment it with an ROI, or with a point in the structure", "nothing-segmented"))
    if prediction.embeddings is None:
        raise ValueError("the prediction holds no embeddings; predict again with want=('embeddings',)")
    return prediction.embeddings
