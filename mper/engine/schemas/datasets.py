"""Datasets, their cases and the revisions of labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from mper.engine.schemas.common import (
    AnswerModel,
    AnswerWithLines,
    BoxMm,
    CaseIds,
    Index,
    JsonObject,
    LabelModel,
    ModelName,
    Name,
    PointMm,
    RequestModel,
)
from mper.engine.schemas.runs import Run

How = Literal["hand", "strokes", "model", "imported"]
_MOST_NOTES = 20


def _few(notes: Any) -> Any:
    if isinstance(notes, dict) and len(notes) > _MOST_NOTES:  # before each of thousands is looked at
        raise ValueError(f"{len(notes)} entries, at most {_MOST_NOTES} are kept")
    return notes


class RootRequest(RequestModel):
    """A folder for datasets."""

    path: Annotated[str, Field(min_length=1, max_length=4000, description="Absolute; made if it is missing.")]


class RootAnswer(AnswerModel):
    """The name of a root: a new one, or that which the folder has already."""

    root: str


class CodeRequest(RequestModel):
    """A coded concept, as DICOM writes it."""

    scheme: Name
    value: Name
    meaning: Name


class LabelRequest(RequestModel):
    """A label; what is left out is taken from the name where it is known."""

    value: int | None = None
    name: Name
    category: CodeRequest | None = None
    type: CodeRequest | None = None
    colour: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    modifier: CodeRequest | None = None
    region: CodeRequest | None = None
    region_modifier: CodeRequest | None = None


class DatasetRequest(RequestModel):
    """A dataset to make in a missing or empty folder."""

    root: str
    folder: Annotated[str, Field(max_length=500, description='Relative path; "" for the root itself.')] = ""
    name: Annotated[Name | None, Field(description="Default: the folder's.")] = None
    labels: Annotated[list[Name | LabelRequest], FailFast(), Field(min_length=1, max_length=254)]


class DatasetSummary(AnswerModel):
    """A dataset in the list of all."""

    id: str
    name: str
    cases: int
    labelled: int


class ModelVersion(AnswerModel):
    """A version of a model of a dataset."""

    version: int
    id: str
    current: bool
    title: str
    labels: list[LabelModel]
    card: JsonObject


class DatasetModel(AnswerModel):
    """A model of a dataset with its versions."""

    name: str
    current: int
    previous: Annotated[int | None, Field(description="The version in use before.")]
    versions: list[ModelVersion]


class DatasetAnswer(AnswerModel):
    """A dataset."""

    id: Annotated[str, Field(description="`ROOT/relative/path`; in routes each `/` is written as `~`.")]
    name: str
    labels: list[LabelModel]
    splits: dict[str, list[str]]
    holdout: Annotated[str | None, Field(description="The split that is locked.")]
    locked: Annotated[list[str], Field(description="All splits that are never trained on: with the second hold-out.")]
    models: list[DatasetModel]
    runs: list[Run]
    cases: int
    labelled: int
    trainable: Annotated[int, Field(description="Labelled cases that are neither held out nor excluded.")]


class HoldoutRequest(RequestModel):
    """The cases to lock for good."""

    cases: CaseIds
    second: Annotated[bool, Field(description="Add them to the second hold-out, after the first one was locked.")] = (
        False
    )
    author: Name = "unknown"


class HoldoutAnswer(AnswerWithLines):
    """The locked hold-out."""

    holdout: str
    cases: list[str]
    notices: list[str]


class SplitRequest(RequestModel):
    """Cases to put into a split, after what else it holds."""

    name: Name
    cases: CaseIds


class CaseRequest(RequestModel):
    """An uploaded scan to keep as a case."""

    scan: str
    id: Annotated[Name | None, Field(description="Default: case-001 and on.")] = None
    source: Annotated[
        dict[Name, Annotated[str, Field(max_length=500)]], BeforeValidator(_few), Field(max_length=_MOST_NOTES)
    ] = Field(default_factory=dict)
    split: Name | None = "train"


class PredictedBy(AnswerModel):
    """The model that last predicted a case for ranking."""

    name: str
    version: str
    sha256: str


class CaseAnswer(AnswerModel):
    """A case; what a revision has is that of the newest, null or false where there is none."""

    id: str
    labelled: bool
    revisions: int
    author: str | None
    when: str | None
    how: str | None
    edited: bool | None
    split: str | None
    shape: Index
    spacing_mm: PointMm | None
    confidence: Annotated[float | None, Field(description="Of the last ranking's prediction.")]
    predicted_by: PredictedBy | None
    partial: Annotated[bool, Field(description="Whether the label holds 255 (unlabelled).")]
    strokes: Annotated[bool, Field(description="Whether its strokes are kept.")]
    source: dict[str, str]
    display_name: Annotated[str | None, Field(description="Null where it is the id.")]
    excluded: Annotated[bool, Field(description="Whether it is neither trained on nor measured on.")]
    voxels_sha256: Annotated[str | None, Field(description="Checksum of the scan's voxels.")]
    region_mm: Annotated[BoxMm | None, Field(description="The box that it is used in; null where that is the scan.")]


class AddedCase(CaseAnswer, AnswerWithLines):
    """A case that was just added."""

    duplicates: Annotated[list[str], Field(description="Cases with the very same voxels.")]
    notices: list[str]


class DamagedCase(AnswerWithLines):
    """A case that cannot be read."""

    id: str
    labelled: Literal[False] = False
    revisions: Literal[0] = 0
    split: str | None
    error: str


class RevisionAnswer(AnswerModel):
    """A revision of a label."""

    number: int
    author: str
    when: str
    how: str
    edited: bool
    model: ModelName | None
    seconds: float | None
    parent: int | None
    partial: Annotated[bool, Field(description="Whether it holds 255 (unlabelled).")]
    strokes: Annotated[bool, Field(description="Whether its strokes are kept.")]


class RenameRequest(RequestModel):
    """A display name for a case, "" for none."""

    name: Annotated[str, Field(max_length=500)]
    author: Name


class ExcludeRequest(RequestModel):
    """Whether a case is excluded."""

    excluded: bool
    author: Name


class RegionRequest(RequestModel):
    """The box (LPS mm) inside which drafts and trainings use a case, null for the whole scan."""

    region_mm: Annotated[list[float], Field(min_length=6, max_length=6)] | None
    author: Name


class RemovedCase(AnswerModel):
    """A case that was removed, and where in its dataset's folder it lies now."""

    id: str
    folder: str


class StructureRequest(RequestModel):
    """A structure to add to a dataset."""

    label: Name | LabelRequest
    author: Name


class RestoreRequest(RequestModel):
    """An old revision to add again, with its strokes, as the newest one."""

    number: int
    author: Name
