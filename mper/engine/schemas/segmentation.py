"""Scans, the job that segments one, and what can be asked of its prediction."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mper.engine.schemas.common import (
    AnswerModel,
    AnswerWithLines,
    Box,
    Device,
    Index,
    LabelModel,
    PointMm,
    RequestModel,
)


class ScanId(AnswerModel):
    """A scan that the engine holds."""

    scan: str


class SegmentRequest(RequestModel):
    """A scan to segment."""

    scan: str
    model: str
    device: Device = "auto"
    roi_mm: Annotated[
        Annotated[list[float], Field(min_length=6, max_length=6)] | None,
        Field(description="[x0, x1, y0, y1, z0, z1] in LPS; null for the region that the model finds."),
    ] = None
    at_mm: Annotated[
        Annotated[list[float], Field(min_length=3, max_length=3)] | None,
        Field(description="A point in the structure, [x, y, z] in LPS, instead of a region."),
    ] = None
    tta: Annotated[bool, Field(description="Average over mirrored copies.")] = False


class QuickStructure(AnswerModel):
    """Figures of a structure that a quick answer has; the others come with the clean-up."""

    value: int
    name: str
    voxels: int
    volume_ml: Annotated[float | None, Field(description="null where the spacing is unknown.")]
    surface_mm2: None = None
    components: None = None
    confidence: None = None


class Structure(AnswerModel):
    """Figures of a structure, see `mper.measurement.measures.Measures`."""

    value: int
    name: str
    voxels: int
    volume_ml: Annotated[float | None, Field(description="null where the spacing is unknown.")]
    surface_mm2: Annotated[float | None, Field(description="null where the spacing is unknown.")]
    components: int
    confidence: float | None


class PrototypeRow(AnswerModel):
    """A prototype in this scan; `class` is the value of its label, 0 for background."""

    value: int
    name: str
    of: Annotated[int, Field(serialization_alias="class")]
    colour: tuple[int, int, int]
    voxels: int
    volume_ml: float | None
    mean_similarity: float | None
    mean_intensity: float | None
    typical_index: Index | None
    typical_mm: PointMm | None


class UncertainRegionModel(AnswerWithLines):
    """A place where a stroke is worth most."""

    index: Index
    mm: PointMm | None
    uncertainty: float
    volume_ml: float | None
    words: str


class Flag(AnswerModel):
    """A reason to check the mask."""

    code: Annotated[str, Field(examples=["quality", "border", "components", "intensities", "volume", "empty", "noise"])]
    words: str


class QualityModel(AnswerModel):
    """The Dice to expect of the mask, see `mper.models.calibration`."""

    expected_dice: float
    low: float
    high: float
    level: Annotated[str, Field(examples=["good", "check", "likely wrong"])]
    reasons: list[str]


class SegmentResult(AnswerWithLines):
    """Result of a job that segments a scan."""

    prediction: str
    model: str
    model_version: str
    model_sha256: str
    labels: list[LabelModel]
    scan_sha256: Annotated[str, Field(description="Of the scan's voxels; goes with strokes that are kept.")]
    shape: Index
    start: Annotated[Index, Field(description="First voxel of the region that was computed.")]
    extent: Annotated[
        Box | None, Field(description="Start and stop of the mask's non-zero part in the scan; null if it is empty.")
    ]
    confidence: float | None
    quality: Annotated[
        QualityModel | None, Field(description="null for an empty mask, or a model that is not calibrated.")
    ]
    notes: list[str]
    flags: list[Flag]
    roi_mm: list[float] | None
    device: str
    method: str
    seconds: float
    structures: list[Structure]
    prototypes: list[PrototypeRow]
    uncertain_places: list[UncertainRegionModel]


class NearPrototype(AnswerModel):
    """A prototype and its cosine to the voxel's embedding."""

    value: int
    name: str
    similarity: float


class NearLabelledVoxel(AnswerModel):
    """A voxel of a training case that a person labelled, and its cosine to the voxel's embedding."""

    value: int
    name: str
    case: str
    index: Index
    similarity: float


class ProbedVoxel(AnswerModel):
    """Why a voxel has its label."""

    value: int
    name: str
    prototypes: Annotated[list[NearPrototype], Field(description="The nearest three.")]
    labelled: Annotated[
        list[NearLabelledVoxel], Field(description="The nearest three; of models that keep labelled voxels.")
    ]
    margin: Annotated[float | None, Field(description="null of a model without prototypes.")]
    probability: Annotated[float | None, Field(description="Of its label; null where a stroke has set it.")]
    stroke: Annotated[int | None, Field(description="The stroke, from 0, that has set it.")]


class OutsideRegion(AnswerModel):
    """Nothing was computed there."""

    value: None = None


class ScatterPrototype(AnswerModel):
    """A prototype on the axes of a scatter plot."""

    value: int
    x: float
    y: float


class Scatter(AnswerModel):
    """Embeddings of some voxels on their two principal axes."""

    x: list[float]
    y: list[float]
    value: Annotated[list[int], Field(description="Of the prototype map.")]
    index: Annotated[list[Index], Field(description="Voxels (k, j, i) of the scan.")]
    explained: Annotated[list[float], Field(description="Share of the variance along each axis.")]
    prototypes: list[ScatterPrototype]
