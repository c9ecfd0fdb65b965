"""What models of several subjects share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, model_validator

from mper.utils.coded import line_codes

NDJSON = "application/x-ndjson"

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d{1,2}|mps)$")]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Index = tuple[int, int, int]
Box = tuple[Index, Index]
PointMm = tuple[float, float, float]
BoxMm = tuple[float, float, float, float, float, float]  # x0, x1, y0, y1, z0, z1
JsonObject = dict[str, JsonValue]
CaseIds = Annotated[list[Name], FailFast(), Field(min_length=1, max_length=10_000)]


class RequestModel(BaseModel):
    """A JSON body: nothing is converted, and what is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _stop_at_the_first_unknown(cls, body: Any) -> Any:
        """Leave out all unknown names but one, which is refused: thousands would each become an error."""
        if not isinstance(body, Mapping) or len(body) <= len(cls.model_fields):
            return body
        unknown = next(name for name in body if name not in cls.model_fields)
        return {name: value for name, value in body.items() if name in cls.model_fields or name == unknown}


class AnswerModel(BaseModel):
    """A JSON answer: it has all its names, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True, allow_inf_nan=False)


class Empty(AnswerModel):
    """Nothing: it is done."""


class ErrorAnswer(AnswerModel):
    """Every answer with a status of 4xx or 5xx."""

    error: Annotated[str, Field(description="One line: what came, what was expected, what to do.")]
    code: Annotated[str | None, Field(description="What was refused, for words of the reader's own.")] = None
    values: Annotated[
        dict[str, str | int | float] | None, Field(description="Names and numbers for the words of the code.")
    ] = None


class Coded(AnswerModel):
    """What a line says: a code, empty where only the line says it, with names and numbers."""

    code: str
    values: Annotated[dict[str, str | int | float], Field(description="A text may be a line with a code of its own.")]


class AnswerWithLines(AnswerModel):
    """An answer with lines for people."""

    line_codes: Annotated[
        dict[str, Coded],
        Field(description="Code and values of its lines, by the line; lines without a code are not here."),
    ] = Field(default_factory=dict)


def codes_for(*lines: object) -> dict[str, Coded]:
    """`line_codes` as an answer has them."""
    return {line: Coded.model_validate(each) for line, each in line_codes(*lines).items()}


class CodeModel(AnswerModel):
    """A coded concept, as DICOM writes it."""

    scheme: str
    value: str
    meaning: str


class LabelModel(AnswerModel):
    """A structure of a mask, see `mper.labels.Label`."""

    value: int
    name: str
    category: CodeModel | None
    type: CodeModel | None
    colour: tuple[int, int, int]
    modifier: CodeModel | None
    region: CodeModel | None
    region_modifier: CodeModel | None


class ModelName(AnswerModel):
    """A model that made a label."""

    name: str
    version: str
