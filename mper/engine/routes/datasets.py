"""Routes for datasets: their cases, the revisions of labels, splits and the hold-out."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from mper.datasets.case import Case, Revision
from mper.datasets.dataset import Dataset
from mper.engine.arrays import ArrayHeader, array_answer
from mper.engine.errors import Refused
from mper.engine.routes.runs import runs_of
from mper.engine.schemas import Body
from mper.engine.services.engine import ClientDep, Engine, EngineDep, WhoDep
from mper.engine.services.lookup import open_case, open_dataset
from mper.engine.services.model_registry import DRAFTS, PARTS, models_of, trained_on
from mper.engine.services.models import label_entry
from mper.engine.services.scans import Upload, receive
from mper.labels import BACKGROUND, UNLABELLED, Code, Label, make_label
from mper.roi import bounding_box
from mper.volume import Index3, Volume

router = APIRouter()

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=500)]
How = Literal["hand", "strokes", "model", "imported"]


class CodeBody(Body):
    scheme: Name
    value: Name
    meaning: Name


class LabelBody(Body):
    value: int | None = None
    name: Name
    category: CodeBody | None = None
    type: CodeBody | None = None
    colour: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    modifier: CodeBody | None = None
    region: CodeBody | None = None
    region_modifier: CodeBody | None = None


class RootBody(Body):
    path: Annotated[str, Field(min_length=1, max_length=4000)]


class DatasetBody(Body):
    root: str
    folder: Annotated[str, Field(max_length=500)] = ""
    name: Name | None = None
    labels: Annotated[list[Name | LabelBody], Field(min_length=1, max_length=254)]


class CaseBody(Body):
    scan: str
    id: Name | None = None
    source: dict[Name, Text] = Field(default_factory=dict, max_length=20)
    split: Name | None = "train"


class RestoreBody(Body):
    number: int
    author: Name


class HoldoutBody(Body):
    cases: Annotated[list[Name], Field(min_length=1)]


class SplitBody(Body):
    name: Name
    cases: Annotated[list[Name], Field(min_length=1)]


# ---------------------------------------------------------------------- datasets


@router.post("/roots")
def add_root(engine: EngineDep, client: WhoDep, body: RootBody) -> dict[str, str]:
    if not client.local:
        raise Refused(403, "only who started this engine may add folders; ask for another --root where it runs")
    path = Path(body.path)
    if not path.is_absolute():
        raise Refused(422, f"a root is an absolute path, {body.path!r} is not; give the whole of it")
    path.mkdir(parents=True, exist_ok=True)
    return {"root": engine.roots.add(path)}


@router.get("/datasets")
def datasets(engine: EngineDep) -> list[dict[str, Any]]:
    found = []
    for dataset_id, folder in engine.roots.datasets():
        with contextlib.suppress(OSError, ValueError):  # a damaged one tells so when it is opened
            dataset = Dataset.open(folder)
            cases = [dataset.case(case_id) for case_id in dataset.cases]
            labelled = sum(case.is_labelled for case in cases)
            found.append({"id": dataset_id, "name": dataset.name, "cases": len(cases), "labelled": labelled})
    return found


@router.post("/datasets")
def add_dataset(engine: EngineDep, body: DatasetBody) -> dict[str, Any]:
    path = engine.roots.inside(body.root, body.folder)
    if any("~" in part for part in Path(body.folder).parts):
        raise Refused(422, f"a dataset's folder cannot have ~ in its name, {body.folder!r} has; take another")
    above = [folder for folder in path.parents if folder.is_relative_to(engine.roots.folders[body.root])]
    for folder in above:
        if (folder / "dataset.json").exists():
            raise Refused(409, f"{body.folder!r} lies inside a dataset; choose a folder beside it")
    labels = [_label(number, label) for number, label in enumerate(body.labels, start=1)]
    Dataset.create(path, body.name or path.name, labels)
    return dataset_entry(engine, "/".join(part for part in (body.root, body.folder) if part))


@router.get("/datasets/{d}")
def dataset_route(engine: EngineDep, d: str) -> dict[str, Any]:
    return dataset_entry(engine, d)


def dataset_entry(engine: Engine, dataset_id: str) -> dict[str, Any]:
    """A dataset as the protocol has it."""
    dataset_id = dataset_id.replace("~", "/")
    dataset = open_dataset(engine, dataset_id)
    return {
        "id": dataset_id,
        "name": dataset.name,
        "labels": [label_entry(label) for label in dataset.labels],
        "splits": {name: list(ids) for name, ids in dataset.splits.items()},
        "holdout": dataset.holdout,
        "models": models_of(dataset, dataset_id),
        "runs": runs_of(engine, dataset, dataset_id),
    }


@router.post("/datasets/{d}/holdout")
def lock_holdout(engine: EngineDep, d: str, body: HoldoutBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    unlabelled = [case_id for case_id in body.cases if not dataset.case(case_id).is_drawn]
    notices = [f"{', '.join(unlabelled)}: no label yet, and nothing is measured on it before"] if unlabelled else []
    if drafts := [case_id for case_id in body.cases if dataset.case(case_id).is_draft]:
        notices.append(f"{', '.join(drafts)}: {DRAFTS}")
    if parts := [case.id for case in map(dataset.case, body.cases) if case.is_drawn and case.is_partial]:
        notices.append(f"{', '.join(parts)}: {PARTS}")
    if seen := trained_on(dataset, body.cases):
        notices.append(f"{', '.join(seen)} was trained on before: figures of those models are too good there")
    return {"holdout": dataset.lock_holdout(body.cases), "cases": body.cases, "notices": notices}


@router.post("/datasets/{d}/splits")
def add_to_split(engine: EngineDep, d: str, body: SplitBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    dataset.add_to_split(body.name, body.cases)
    return {name: list(ids) for name, ids in dataset.splits.items()}


def _label(number: int, entry: str | LabelBody) -> Label:
    if isinstance(entry, str):
        return make_label(number, entry)
    known = make_label(entry.value or number, entry.name)
    category, type_, *narrower = (
        Code(code.scheme, code.value, code.meaning) if code else None
        for code in (entry.category, entry.type, entry.modifier, entry.region, entry.region_modifier)
    )
    red, green, blue = entry.colour or known.colour
    coded = category or known.category, type_ or known.type
    return Label(known.value, known.name, *coded, (red, green, blue), *narrower)


# ---------------------------------------------------------------------- cases


@router.get("/datasets/{d}/cases")
def cases(engine: EngineDep, d: str) -> list[dict[str, Any]]:
    dataset = open_dataset(engine, d)
    split_of = {case_id: name for name, ids in dataset.splits.items() for case_id in ids}
    entries = []
    for case_id in dataset.cases:
        case, split = dataset.case(case_id), split_of.get(case_id)
        try:
            entries.append(case_entry(case, split))
        except (OSError, ValueError, KeyError, TypeError) as error:  # one damaged case must not hide the others
            entries.append(
                {"id": case_id, "labelled": False, "revisions": 0, "split": split, "error": engine.explain(error)}
            )
    return entries


def case_entry(case: Case, split: str | None) -> dict[str, Any]:
    """A case as the protocol has it."""
    revisions = case.revisions()
    newest = revisions[-1] if revisions else None
    predicted = case.last_prediction() or {}
    spacing = case.geometry.spacing_mm
    return {
        "id": case.id,
        "labelled": newest is not None,
        "revisions": len(revisions),
        "author": newest.author if newest else None,
        "when": newest.when if newest else None,
        "how": newest.how if newest else None,
        "edited": newest.edited if newest else None,
        "split": split,
        "shape": list(case.geometry.shape),
        "spacing_mm": None if spacing is None else list(spacing),
        "confidence": predicted.get("confidence"),
        "predicted_by": predicted.get("model"),
        "partial": newest.partial if newest else False,
        "strokes": newest.strokes if newest else False,
        "source": case.source,
    }


@router.post("/datasets/{d}/cases")
def add_case(engine: EngineDep, client: ClientDep, d: str, body: CaseBody) -> dict[str, Any]:
    dataset = open_dataset(engine, d)
    if body.split is not None and body.split == dataset.holdout:
        raise Refused(409, f"split {body.split!r} is the locked hold-out of this dataset; choose another")
    with engine.scans.using(client, body.scan) as scan:
        image = scan.volume()
        same = dataset.same_scan(image)
        held = set(dataset.splits[dataset.holdout]) if dataset.holdout else set()
        if locked := [case_id for case_id in same if case_id in held]:
            raise Refused(409, f"this scan is case {locked[0]} of the locked hold-out already; it is never trained on")
        case = _add_numbered(dataset, image, body) if body.id is None else dataset.add_case(body.id, image, body.source)
    if body.split is not None:
        dataset.add_to_split(body.split, [case.id])
    notices = [f"this scan is in the dataset already, as {', '.join(same)}"] if same else []
    return {**case_entry(case, body.split), "duplicates": same, "notices": notices}


def _add_numbered(dataset: Dataset, image: Volume, body: CaseBody) -> Case:
    """Under the next free number."""
    numbers = [int(found[1]) for found in (re.fullmatch(r"case-(\d+)", case_id) for case_id in dataset.cases) if found]
    number = max(numbers, default=0) + 1
    while True:
        try:
            return dataset.add_case(f"case-{number:03d}", image, body.source)
        except FileExistsError:
            number += 1


@router.get("/datasets/{d}/cases/{c}/thumbnail")
def thumbnail(engine: EngineDep, d: str, c: str) -> Response:
    from mper.visualization.thumbnail import case_thumbnail

    return Response(case_thumbnail(open_case(engine, d, c)), media_type="image/png")


@router.get("/datasets/{d}/cases/{c}/image")
def image(engine: EngineDep, d: str, c: str) -> StreamingResponse:
    volume = open_case(engine, d, c).image()
    return array_answer(volume.array, geometry=volume.geometry)


@router.post("/datasets/{d}/cases/{c}/scan")
def case_as_scan(engine: EngineDep, client: ClientDep, d: str, c: str) -> dict[str, str]:
    volume = open_case(engine, d, c).image()
    plain = np.ascontiguousarray(volume.array, dtype=volume.array.dtype.newbyteorder("<"))
    path = engine.scans.folder / f"upload-{secrets.token_hex(8)}"
    plain.tofile(path)
    return {"scan": engine.scans.add(client, Upload(ArrayHeader(plain.shape, plain.dtype, volume.geometry), path)).id}


# ---------------------------------------------------------------------- labels


@router.get("/datasets/{d}/cases/{c}/labels")
def revisions(engine: EngineDep, d: str, c: str) -> list[dict[str, Any]]:
    return [revision_entry(revision) for revision in open_case(engine, d, c).revisions()]


@router.get("/datasets/{d}/cases/{c}/labels/{n}")
def label(engine: EngineDep, d: str, c: str, n: int, cropped: bool = False) -> StreamingResponse:
    case = open_case(engine, d, c)
    if n not in [revision.number for revision in case.revisions()]:
        raise Refused(404, f"case {c} has no label revision {n}")
    mask = case.label(n)
    assert mask is not None
    if not cropped:
        return array_answer(mask.array, geometry=mask.geometry)
    window = bounding_box(mask.array != BACKGROUND) or (slice(0, 1), slice(0, 1), slice(0, 1))
    start: Index3 = tuple(axis.start for axis in window)
    part = mask.crop(start, [axis.stop for axis in window])
    return array_answer(part.array, start=start, geometry=part.geometry)


@router.post("/datasets/{d}/cases/{c}/labels")
async def add_label(
    engine: EngineDep,
    request: Request,
    d: str,
    c: str,
    author: Annotated[str, Query(min_length=1, max_length=200)],
    how: How,
    edited: bool = False,
    model: Annotated[str | None, Query(max_length=200)] = None,
    version: Annotated[str | None, Query(max_length=200)] = None,
    seconds: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    parent: int | None = None,
    outside: Literal["background", "unlabelled"] = "background",
) -> dict[str, Any]:
    case = await run_in_threadpool(open_case, engine, d, c)
    upload = await receive(request, engine.scans.folder, engine.settings.limits)

    def keep() -> dict[str, Any]:
        mask = _whole_mask(upload, case, UNLABELLED if outside == "unlabelled" else BACKGROUND)
        origin = None if model is None else (model, version or "")
        made = case.add_label(mask, author=author, how=how, edited=edited, model=origin, seconds=seconds, parent=parent)
        return revision_entry(made)

    try:
        return await run_in_threadpool(keep)
    finally:
        upload.remove()


def _whole_mask(upload: Upload, case: Case, outside: int) -> Volume:
    """The uploaded array on the case's grid."""
    header, grid = upload.header, case.geometry
    start = header.start or (0, 0, 0)
    stop = [a + n for a, n in zip(start, header.shape, strict=True)]
    if header.start is None and header.shape != grid.shape:
        raise Refused(
            422,
            f"the label has {_size(header.shape)} voxels, the case {_size(grid.shape)}; a part of it tells its start",
        )
    if any(b > n for b, n in zip(stop, grid.shape, strict=True)):
        raise Refused(422, f"the label reaches to voxel {_size(stop)}, the case has {_size(grid.shape)}")
    if header.geometry is not None and not header.geometry.is_close(grid.crop(start, stop)):
        raise Refused(422, "the label lies elsewhere than the case's voxels; send it on the case's grid")
    array = upload.open()
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > UNLABELLED:
        raise Refused(422, f"a label has whole numbers of 0 to 255, this one is {array.dtype}; send uint8")
    whole = np.full(grid.shape, outside, dtype=np.uint8)
    whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = array
    return Volume(whole, grid)


@router.post("/datasets/{d}/cases/{c}/restore")
def restore(engine: EngineDep, d: str, c: str, body: RestoreBody) -> dict[str, Any]:
    case = open_case(engine, d, c)
    known = {revision.number: revision for revision in case.revisions()}
    if body.number not in known:
        raise Refused(404, f"case {c} has no label revision {body.number}")
    old = known[body.number]
    mask = case.label(body.number)
    assert mask is not None
    made = case.add_label(
        mask,
        author=body.author,
        how=old.how,
        edited=old.edited,
        model=old.model,
        parent=body.number,
        strokes=case.strokes(body.number),
    )
    return revision_entry(made)


def revision_entry(revision: Revision) -> dict[str, Any]:
    """A revision of a label as the protocol has it."""
    model = revision.model
    return {
        "number": revision.number,
        "author": revision.author,
        "when": revision.when,
        "how": revision.how,
        "edited": revision.edited,
        "model": None if model is None else {"name": model[0], "version": model[1]},
        "seconds": revision.seconds,
        "parent": revision.parent,
        "partial": revision.partial,
        "strokes": revision.strokes,
    }


def _size(shape: list[int] | Index3) -> str:
    return "x".join(str(n) for n in shape)
