"""What is measured on masks: requests, figures, and the surface of an atrium."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import FailFast, Field

from mper.engine.schemas.common import AnswerModel, AnswerWithLines, Name, RequestModel

_Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class PlaneClip(RequestModel):
    """A plane that clips a left atrium, see `mper.measurement.clipping.ClipPlane`."""

    kind: Literal["plane"]
    name: Name
    point_mm: Annotated[_Triple, Field(description="[x, y, z] in LPS.")]
    normal: Annotated[_Triple, Field(description="LPS; points to what is removed.")]
    radius_mm: Annotated[float | None, Field(description="Of the disc that the parts to remove touch.")] = None


class SphereClip(RequestModel):
    """A sphere that clips a left atrium."""

    kind: Literal["sphere"]
    name: Name
    center_mm: Annotated[_Triple, Field(description="[x, y, z] in LPS.")]
    radius_mm: float


class MaskLabel(RequestModel):
    """What a value of a mask is."""

    value: Annotated[int, Field(ge=1, le=254)]
    name: Name


class MeasureRequest(RequestModel):
    """Masks to measure: those of a prediction as strokes have left it, or uploaded ones."""

    prediction: Annotated[str | None, Field(description="Its mask, as strokes have left it.")] = None
    masks: Annotated[
        list[str],
        Field(max_length=200, description="Uploaded by POST /scans: one mask, or one for each phase in order."),
    ] = Field(default_factory=list)
    labels: Annotated[list[MaskLabel], FailFast(), Field(max_length=254, description="Of the masks.")] = Field(
        default_factory=list
    )
    scan: Annotated[str | None, Field(description="The LGE-MRI: adds the wall of a left atrium.")] = None
    clips: Annotated[
        list[Annotated[PlaneClip | SphereClip, Field(discriminator="kind")]], FailFast(), Field(max_length=50)
    ] = Field(default_factory=list)
    height_cm: float | None = None
    weight_kg: float | None = None
    wall_mm: float = 3.0
    pool_mm: float = 2.0
    sampling: Literal["max", "mean"] = "max"
    end_diastole: Annotated[int | None, Field(ge=1, description="A phase, by its number.")] = None
    end_systole: Annotated[int | None, Field(ge=1, description="A phase, by its number.")] = None
    phase_numbers: Annotated[
        list[int],
        Field(max_length=200, description="Of the masks, where they are some phases of a series; else from 1."),
    ] = Field(default_factory=list)
    ranges: Annotated[
        bool,
        Field(description="Of a prediction of one structure: also the masks at probability 0.3 and 0.7; slower."),
    ] = False


class Stage(AnswerModel):
    """What a classification scheme calls a value."""

    scheme: str
    stage: str


class FigureModel(AnswerModel):
    """A measured value, see `mper.measurement.figures.Figure`."""

    key: str
    name: str
    group: str
    value: Annotated[float | None, Field(description="null where it cannot be given; `method` says why.")]
    unit: str
    method: str
    stages: list[Stage]
    range: Annotated[list[float] | None, Field(description="Lowest and highest; null unless asked for.")]


class VolumeCurve(AnswerModel):
    """The volume of a structure in each phase."""

    name: str
    ml: list[float]


class Measurement(AnswerWithLines):
    """The figures of a case."""

    figures: list[FigureModel]
    notes: list[str]
    curves: list[VolumeCurve]
    end_diastole: int | None
    end_systole: int | None
    surface: Annotated[
        str | None, Field(description="Of a left atrium, for GET /surfaces/{surface}; the newest four are kept.")
    ]
    seconds: float
