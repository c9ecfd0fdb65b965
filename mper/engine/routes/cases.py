"""Routes for the cases of a dataset and the revisions of their labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from mper.engine.arrays import ARRAY_ANSWER, ARRAY_BODY, ArrayResponse, array_response, receive_array
from mper.engine.routes.dependencies import ArrayHeaderText, ClientDep, EngineDep
from mper.engine.schemas.datasets import AddedCase, CaseAnswer, CaseRequest, DamagedCase, How, RestoreRequest
from mper.engine.schemas.datasets import RevisionAnswer as Revision
from mper.engine.schemas.segmentation import ScanId
from mper.engine.schemas.strokes import KeptStrokes, StrokesRequest
from mper.engine.services import cases
from mper.engine.services.cropping import cropped_to_mask
from mper.engine.services.lookup import open_case, open_dataset
from mper.engine.services.uploads import Upload
from mper.labels import BACKGROUND, UNLABELLED

router = APIRouter(tags=["Cases and labels"])

_Author = Annotated[str, Query(min_length=1, max_length=200)]
_Seconds = Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="Time that a person spent.")]
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "PNG, 128 pixels at most.", "content": {"image/png": {"schema": {"type": "string"}}}}
}


@router.get("/datasets/{d}/cases")
def list_cases(
    engine: EngineDep,
    d: str,
    first: Annotated[int, Query(ge=0, description="How many cases to leave out before.")] = 0,
    count: Annotated[int | None, Query(ge=1, description="How many cases to answer at most; all by default.")] = None,
    contains: Annotated[str, Query(max_length=200, description="A part of the id or of the display name.")] = "",
) -> list[CaseAnswer | DamagedCase]:
    """The cases of a dataset, by their ids in order: all of them, or a page of a large dataset."""
    return cases.list_cases(engine, open_dataset(engine, d), first, count, contains)


@router.get("/datasets/{d}/cases/{c}")
def case(engine: EngineDep, d: str, c: str) -> CaseAnswer:
    """A case."""
    return cases.describe_case(open_dataset(engine, d), open_case(engine, d, c).id)


@router.post("/datasets/{d}/cases")
def add_case(engine: EngineDep, client: ClientDep, d: str, body: CaseRequest) -> AddedCase:
    """Keep an uploaded scan as a case; 409 if the id is taken, or the scan is in the locked hold-out already."""
    return cases.add_case(engine, client, open_dataset(engine, d), body)


@router.get("/datasets/{d}/cases/{c}/thumbnail", responses=_PICTURE, response_class=Response)
def thumbnail(engine: EngineDep, d: str, c: str) -> Response:
    """The middle slice of the label, or of the scan."""
    from mper.visualization.thumbnail import case_thumbnail

    return Response(case_thumbnail(open_case(engine, d, c)), media_type="image/png")


@router.get("/datasets/{d}/cases/{c}/image", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def image(engine: EngineDep, d: str, c: str) -> ArrayResponse:
    """The scan of a case, with its affine."""
    volume = open_case(engine, d, c).image()
    return array_response(volume.array, geometry=volume.geometry)


@router.post("/datasets/{d}/cases/{c}/scan")
def case_as_scan(engine: EngineDep, client: ClientDep, d: str, c: str) -> ScanId:
    """The case's image as a scan, to be segmented without sending it again."""
    upload = Upload.of(open_case(engine, d, c).image(), engine.scans.folder)
    return ScanId(scan=engine.scans.add(client, upload).id)


@router.get("/datasets/{d}/cases/{c}/labels")
def revisions(engine: EngineDep, d: str, c: str) -> list[Revision]:
    """The revisions of the label, oldest first."""
    return [cases.revision_answer(revision) for revision in open_case(engine, d, c).revisions()]


@router.get("/datasets/{d}/cases/{c}/labels/{n}", responses=ARRAY_ANSWER, response_class=ArrayResponse)
def label(
    engine: EngineDep,
    d: str,
    c: str,
    n: int,
    cropped: Annotated[bool, Query(description="Only the non-zero part; one voxel of 0 where there is none.")] = False,
) -> ArrayResponse:
    """The label of a revision (uint8), with its affine."""
    mask = cases.label_of(open_case(engine, d, c), n)
    if not cropped:
        return array_response(mask.array, geometry=mask.geometry)
    part, start = cropped_to_mask(mask)
    return array_response(part.array, start=start, geometry=part.geometry)


@router.post("/datasets/{d}/cases/{c}/labels", openapi_extra=ARRAY_BODY)
async def add_label(
    engine: EngineDep,
    request: Request,
    d: str,
    c: str,
    author: _Author,
    how: How,
    edited: bool = False,
    model: Annotated[str | None, Query(max_length=200)] = None,
    version: Annotated[str | None, Query(max_length=200)] = None,
    seconds: _Seconds = None,
    parent: int | None = None,
    outside: Annotated[
        Literal["background", "unlabelled"], Query(description="Of an array that is a part of the grid.")
    ] = "background",
    scan_sha256: Annotated[
        str | None, Query(max_length=64, description="Of the scan that the label was drawn on; 409 if it is another.")
    ] = None,
    header: ArrayHeaderText = None,
) -> Revision:
    """Add a revision: whole numbers on the case's grid, or a part of it with `start`."""
    case = await run_in_threadpool(open_case, engine, d, c)
    upload = await receive_array(request, header, engine.scans.folder, engine.settings.limits)

    def add() -> Revision:
        if scan_sha256 is not None:
            cases.check_scan(case, scan_sha256)
        return cases.add_label(
            case,
            upload,
            author=author,
            how=how,
            edited=edited,
            model=None if model is None else (model, version or ""),
            seconds=seconds,
            parent=parent,
            outside=UNLABELLED if outside == "unlabelled" else BACKGROUND,
        )

    try:
        return await run_in_threadpool(add)
    finally:
        upload.remove()


@router.post("/datasets/{d}/cases/{c}/restore")
def restore(engine: EngineDep, d: str, c: str, body: RestoreRequest) -> Revision:
    """Add an old revision, with its strokes, again as the newest one."""
    return cases.restore(open_case(engine, d, c), body.number, body.author)


@router.put("/datasets/{d}/cases/{c}/labels/{n}/strokes")
def keep_strokes(engine: EngineDep, d: str, c: str, n: int, body: StrokesRequest) -> Revision:
    """Keep the strokes that a revision was made with, once: 409 for other ones, the same ones change nothing."""
    return cases.keep_strokes(open_case(engine, d, c), n, body)


@router.get("/datasets/{d}/cases/{c}/labels/{n}/strokes")
def kept_strokes(engine: EngineDep, d: str, c: str, n: int) -> KeptStrokes:
    """The strokes that a revision was made with; 404 where none are kept."""
    return cases.kept_strokes(open_case(engine, d, c), n)


@router.post("/datasets/{d}/cases/{c}/strokes")
def label_by_strokes(
    engine: EngineDep,
    d: str,
    c: str,
    body: StrokesRequest,
    author: _Author,
    seconds: _Seconds = None,
    parent: int | None = None,
) -> Revision:
    """Add a revision that is labelled where it was painted, and unlabelled (255) elsewhere."""
    return cases.label_by_strokes(open_case(engine, d, c), body, author, seconds, parent)
