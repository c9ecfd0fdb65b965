"""Routes that change a dataset beside its labels: cases are removed, excluded, renamed and get a region, structures
are added.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from mper.datasets import maintenance
from mper.engine.routes.datasets import dataset as describe
from mper.engine.routes.dependencies import EngineDep
from mper.engine.schemas.datasets import (
    CaseAnswer,
    DatasetAnswer,
    ExcludeRequest,
    RegionRequest,
    RemovedCase,
    RenameRequest,
    StructureRequest,
)
from mper.engine.services.cases import describe_case
from mper.engine.services.datasets import make_structure
from mper.engine.services.lookup import open_case, open_dataset

router = APIRouter(tags=["Cases and labels"])


@router.put("/datasets/{d}/cases/{c}/name")
def rename_case(engine: EngineDep, d: str, c: str, body: RenameRequest) -> CaseAnswer:
    """Give a case a display name, "" for none; its id never changes."""
    maintenance.rename_case(open_dataset(engine, d), open_case(engine, d, c).id, body.name, body.author)
    return describe_case(open_dataset(engine, d), c)


@router.put("/datasets/{d}/cases/{c}/excluded")
def exclude_case(engine: EngineDep, d: str, c: str, body: ExcludeRequest) -> CaseAnswer:
    """Take a case out of its split, or put it back; a case of the hold-out is never excluded."""
    change = maintenance.exclude_case if body.excluded else maintenance.include_case
    change(open_dataset(engine, d), open_case(engine, d, c).id, body.author)
    return describe_case(open_dataset(engine, d), c)


@router.put("/datasets/{d}/cases/{c}/region")
def set_region(engine: EngineDep, d: str, c: str, body: RegionRequest) -> CaseAnswer:
    """Let drafts and trainings use a case inside a box alone, or the whole scan again."""
    maintenance.set_region(open_dataset(engine, d), open_case(engine, d, c).id, body.region_mm, body.author)
    return describe_case(open_dataset(engine, d), c)


@router.delete("/datasets/{d}/cases/{c}")
def remove_case(
    engine: EngineDep, d: str, c: str, author: Annotated[str, Query(min_length=1, max_length=200)]
) -> RemovedCase:
    """Move a case to the recycle folder of its dataset; a case of the hold-out is never removed."""
    there = maintenance.remove_case(open_dataset(engine, d), open_case(engine, d, c).id, author)
    return RemovedCase(id=c, folder=f"{there.parent.name}/{there.name}")


@router.post("/datasets/{d}/labels")
def add_structure(engine: EngineDep, response: Response, d: str, body: StructureRequest) -> DatasetAnswer:
    """Add a structure; labels that were made before show none of it."""
    found = open_dataset(engine, d)
    maintenance.add_structure(found, make_structure(found, body.label), body.author)
    return describe(engine, response, d)
