"""What requests and answers of the engine hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NDJSON = "application/x-ndjson"
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d{1,2}|mps)$")]


class Body(BaseModel):
    """A JSON body: nothing is guessed, and what is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
