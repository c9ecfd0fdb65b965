"""Routes for datasets: roots, splits, the hold-out, ranking, comparison and the version in use."""

from __future__ import annotations

from fastapi import APIRouter, Response

from mper.engine.routes.dependencies import ClientDep, EngineDep, WhoDep, add_notes
from mper.engine.schemas.datasets import (
    DatasetAnswer,
    DatasetRequest,
    DatasetSummary,
    HoldoutAnswer,
    HoldoutRequest,
    RootAnswer,
    RootRequest,
    SplitRequest,
)
from mper.engine.schemas.evaluation import CompareRequest, RankRequest, UseAnswer, UseRequest
from mper.engine.schemas.jobs import JobStatus
from mper.engine.services import comparison, datasets, holdout, ranking
from mper.engine.services.dataset_models import use_version
from mper.engine.services.lookup import open_dataset
from mper.engine.services.notes import Notes

router = APIRouter(tags=["Datasets"])


@router.post("/roots")
def add_root(engine: EngineDep, client: WhoDep, body: RootRequest) -> RootAnswer:
    """Add a folder for datasets; only for the client that started the engine."""
    return RootAnswer(root=datasets.add_root(engine, client, body.path))


@router.get("/datasets")
def list_datasets(engine: EngineDep, response: Response) -> list[DatasetSummary]:
    """All datasets below the roots."""
    notes = Notes(engine.explain)
    answer = datasets.list_datasets(engine, notes)
    add_notes(response, notes)
    return answer


@router.post("/datasets")
def add_dataset(engine: EngineDep, response: Response, body: DatasetRequest) -> DatasetAnswer:
    """Make a dataset; a label by name gets its code where the name is known, and values rise from 1."""
    return dataset(engine, response, datasets.add_dataset(engine, body))


@router.get("/datasets/{d}")
def dataset(engine: EngineDep, response: Response, d: str) -> DatasetAnswer:
    """A dataset with its models and runs."""
    notes = Notes(engine.explain)
    answer = datasets.describe(engine, d, notes)
    add_notes(response, notes)
    return answer


@router.post("/datasets/{d}/splits")
def add_to_split(engine: EngineDep, d: str, body: SplitRequest) -> dict[str, list[str]]:
    """Put cases into a split; answers all splits."""
    found = open_dataset(engine, d)
    found.add_to_split(body.name, body.cases)
    return datasets.splits_of(found)


@router.post("/datasets/{d}/holdout")
def lock_holdout(engine: EngineDep, d: str, body: HoldoutRequest) -> HoldoutAnswer:
    """Lock cases as the hold-out, for good, or add them to the second hold-out; other cases of the same scans too."""
    lock = holdout.lock_more if body.second else holdout.lock
    return lock(open_dataset(engine, d), body.cases, Notes(engine.explain), body.author)


@router.post("/datasets/{d}/rank")
def start_ranking(engine: EngineDep, client: ClientDep, d: str, body: RankRequest) -> JobStatus:
    """Order the cases that have no label and are not held out: a job."""
    found = open_dataset(engine, d)
    ranking.check_rankable(engine, found, body.model)
    return engine.jobs.submit(
        client,
        "rank",
        body.device,
        lambda job, device: ranking.rank_cases(engine, found, body.model, device, job),
    ).status()


@router.post("/datasets/{d}/compare")
def start_comparing(engine: EngineDep, client: ClientDep, d: str, body: CompareRequest) -> JobStatus:
    """Evaluate two models on the locked hold-out: a job."""
    found = open_dataset(engine, d)
    comparison.check_comparable(engine, found, body)
    return engine.jobs.submit(
        client,
        "compare",
        body.device,
        lambda job, device: comparison.compare_models(engine, found, body, device, job),
    ).status()


@router.post("/datasets/{d}/models/{name}/use")
def use_model(engine: EngineDep, d: str, name: str, body: UseRequest) -> UseAnswer:
    """Make a version the current one; the first version of a model became it by itself."""
    return use_version(open_dataset(engine, d), name, body.version)
