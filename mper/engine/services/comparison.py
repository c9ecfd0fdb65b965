"""Two models on the locked hold-out: a job that keeps the masks of both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mper.datasets.dataset import Dataset
from mper.datasets.revisions import about_drafts
from mper.datasets.scan_record import geometry_from_dict, geometry_to_dict
from mper.engine.errors import Conflict, NotFound
from mper.engine.schemas.common import codes_for
from mper.engine.schemas.evaluation import CompareRequest, CompareResult
from mper.engine.services.cropping import cropped_to_mask
from mper.engine.services.dataset_models import trained_on
from mper.engine.services.engine import Engine
from mper.engine.services.jobs import Job
from mper.engine.services.notes import Notes
from mper.utils.coded import Coded
from mper.utils.files import read_json, write_atomically, write_json
from mper.volume import Geometry, Index3, Volume


def check_comparable(engine: Engine, dataset: Dataset, request: CompareRequest) -> None:
    """Raise `Conflict` or `NotFound` where there is no hold-out, or a model is missing."""
    if dataset.holdout is None:
        line = "this dataset has no locked hold-out to compare models on; lock a few labelled cases first"
        raise Conflict(line, "no-holdout")
    for model in (request.new, request.old):
        engine.models.path(model)


def compare_models(engine: Engine, dataset: Dataset, request: CompareRequest, device: str, job: Job) -> CompareResult:
    """Evaluate both versions on the hold-out; the masks stay with the job."""
    from mper.evaluation.comparison import compare

    assert dataset.holdout is not None
    cases = [dataset.case(case_id) for case_id in dataset.held_out]
    places = {case.id: n for n, case in enumerate(cases)}

    def keep(case_id: str, when: str, mask: Volume) -> None:
        _keep_mask(job.folder, places[case_id], when, mask)

    found = compare(
        lambda: engine.models.predictor(request.old, device),
        lambda: engine.models.predictor(request.new, device),
        cases,
        dataset.labels,
        report=job,
        notify=job.notice,
        keep=keep,
    )
    write_json(job.folder / "cases.json", places)
    if drafts := [case.id for case in cases if case.is_draft]:
        job.notice(about_drafts(drafts))
    notes = Notes(engine.explain)
    for model in (request.old, request.new):
        if ids := trained_on(dataset, [case.id for case in cases], notes, engine.models.path(model)):
            names = ", ".join(ids)
            line = f"model {model} was trained on {names} before they were held out: its figures are too good there"
            job.notice(Coded(line, "trained-on-holdout", model=model, cases=names))
    for line in notes.lines:
        job.notice(line)
    models = {"new": request.new, "old": request.old, "split": dataset.holdout}
    return CompareResult.model_validate({**found, **models, "line_codes": codes_for(found["words"])})


def kept_mask(job: Job, case_id: str, when: str) -> tuple[npt.NDArray[np.uint8], Index3, Geometry]:
    """A mask of a comparison: its non-zero part, that part's first voxel in the case, and where it lies.

    Raises
    ------
    NotFound
        If the job has none.
    """
    if job.kind != "compare" or job.result is None:
        raise NotFound(f"job {job.id!r} has no masks: it compares nothing, or is not finished")
    number = read_json(job.folder / "cases.json").get(case_id)
    path = job.folder / f"{number}-{when}.npy"
    if number is None or not path.exists():
        raise NotFound(f"job {job.id!r} has no mask of a case {case_id!r}")
    entry = read_json(path.with_suffix(".json"))
    k, j, i = entry["start"]
    return np.load(path, allow_pickle=False), (k, j, i), geometry_from_dict(entry)


def _keep_mask(folder: Path, number: int, when: str, mask: Volume) -> None:
    part, start = cropped_to_mask(mask)
    data = io.BytesIO()
    np.save(data, part.array, allow_pickle=False)
    write_atomically(folder / f"{number}-{when}.npy", [data.getbuffer()])
    write_json(folder / f"{number}-{when}.json", {"start": list(start), **geometry_to_dict(part.geometry)})
