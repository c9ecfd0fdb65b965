"""The engine itself and its models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mper.engine.schemas.common import AnswerModel, Device, JsonObject, LabelModel, RequestModel


class Health(AnswerModel):
    """The engine is there; without a token nothing else is answered."""

    alive: Literal[True] = True


class DeviceModel(AnswerModel):
    """A device that jobs can run on."""

    name: str
    words: str


class Info(AnswerModel):
    """The engine, and the machine it runs on."""

    protocol: int
    version: str
    ready: Annotated[bool, Field(description="Whether torch is loaded; until then only the CPU is listed.")]
    devices: list[DeviceModel]
    default_device: str
    roots: Annotated[list[str], Field(description="Names of the folders that hold datasets.")]
    upload_limit_bytes: int
    diagnostics: Annotated[str, Field(description="What `mper doctor` says, without its self-test.")]


class DatasetOrigin(AnswerModel):
    """The dataset that a model was trained in."""

    dataset: str
    name: str
    version: str
    current: bool


class ModelAnswer(AnswerModel):
    """A model that can be used."""

    id: Annotated[str, Field(description="`la` (bundled) or `DATASET_ID/NAME/VERSION`.")]
    name: str
    version: str
    title: str
    button: Annotated[str, Field(examples=["Segment LA"])]
    labels: list[LabelModel]
    card: Annotated[
        JsonObject, Field(description="What the model's card says for people, and the checksum of the weights.")
    ]
    origin: Literal["bundled"] | DatasetOrigin


class LoadRequest(RequestModel):
    """A model to load ahead of its first use."""

    model: str
    device: Device = "auto"


class LoadResult(AnswerModel):
    """Result of a job that loads a model."""

    model: str
    device: str
    seconds: float
