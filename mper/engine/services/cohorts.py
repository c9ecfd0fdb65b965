"""Cohorts: starting, pausing and resuming one, its rows, its scans and masks, and decisions on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from mper.cohort.manifest import WORK, CohortFolder, CohortRun
from mper.cohort.results import DONE, CohortRow
from mper.cohort.review import file_of
from mper.cohort.scans import read_scan
from mper.cohort.status import FAILED, FINISHED, INTERRUPTED, LOG, NEW, PAUSED, RUNNING, SUBMITTED, request_pause
from mper.cohort.tables import PICTURES, picture_name
from mper.engine.errors import Conflict, Forbidden, InvalidRequest, NotFound
from mper.engine.schemas.cohorts import (
    CohortAnswer,
    CohortRequest,
    CohortRowAnswer,
    CohortRows,
    ReviewRequest,
)
from mper.engine.schemas.common import codes_for
from mper.engine.services.cases import on_grid
from mper.engine.services.cohort_store import STARTING, Cohort
from mper.engine.services.engine import Engine
from mper.engine.services.lookup import open_dataset
from mper.engine.services.notes import Notes
from mper.engine.services.uploads import Upload
from mper.engine.settings import Client
from mper.labels import BACKGROUND, Segmentation
from mper.models.card import StoredBundle, read_bundle
from mper.utils.coded import decoded, without_folders
from mper.utils.files import check_name
from mper.volume import Volume

COHORTS = "cohorts"  # folder of a dataset
_LOG_TAIL = 200_000  # bytes
_OUTSIDE = "\N{HORIZONTAL ELLIPSIS}"  # in place of folders outside of the roots


def open_cohort(engine: Engine, client: Client, folder: str) -> Cohort:
    """The cohort in a folder.

    Raises
    ------
    Forbidden, NotFound, InvalidRequest
        If the client may not, or there is none.
    """
    path = _own_path(client, folder)
    if not path.is_dir():
        raise NotFound(f"the folder {path} is not there any more; choose another", "no-folder", folder=path.name)
    if CohortFolder.read(path) is None:
        line = f"{path} holds no results of a cohort; choose a folder that was segmented into"
        raise InvalidRequest(line, "no-results", folder=path.name)
    return engine.cohorts.open(path, outside=True)


def list_cohorts(engine: Engine, client: Client, dataset_id: str | None, notes: Notes) -> list[CohortAnswer]:
    """The cohorts of a dataset, without one those that were opened or started.

    One that cannot be read is left out, with a note.
    """
    if dataset_id is None:
        folders = [cohort.path for cohort in engine.cohorts.all(client)]
    else:
        home = open_dataset(engine, dataset_id).path / COHORTS
        folders = sorted(home.iterdir()) if home.is_dir() else []
    answers = []
    for path in folders:
        with notes.skipping(f"the cohort {path.name}"):
            if dataset_id is not None and not path.is_dir():
                continue
            cohort = engine.cohorts.open(path, outside=False)
            with cohort.lock:
                answers.append(describe(engine, client, cohort))
    return answers


def start_cohort(engine: Engine, client: Client, request: CohortRequest) -> Cohort:
    """Start a cohort, or go on with the one in the folder.

    Raises
    ------
    Forbidden, NotFound, InvalidRequest, Conflict, ValueError
        If the client may not; model, scans or dataset are not there; the folder holds other results, or is in use.
    """
    stored = read_bundle(engine.models.path(request.model))
    options = ["--tta"] if request.tta else []
    if (request.folder is None) == (request.dataset is None):
        raise InvalidRequest("a cohort is a folder of scans, or the unlabelled cases of a dataset; name one of them")
    if request.folder is not None:
        source = _own_path(client, request.folder)
        if not source.exists():
            raise NotFound(f"the folder {source} does not exist; choose another", "no-folder", folder=source.name)
        if request.out is None:
            raise InvalidRequest("a cohort of a folder needs a folder for its results (out)")
    else:
        source = open_dataset(engine, request.dataset or "").path
        options.append("--unlabelled")
    if request.out is not None:
        out = _own_path(client, request.out)
    else:
        out = _free_folder(source / COHORTS, stored, request.tta)
    if out.is_file():
        raise InvalidRequest(f"{out} is a file; choose a folder for the results", "folder-is-file", file=out.name)
    before = CohortFolder.read(out)
    if before is not None:
        before.check_run(_run(stored, request.tta))
    out.mkdir(parents=True, exist_ok=True)
    cohort = engine.cohorts.open(out, outside=client.local)
    words = [str(source), str(out), f"--model={stored.path.resolve()}", f"--device={request.device}"]
    with cohort.lock:
        cohort.start(["segment", *words, *options])
    return cohort


def _run(stored: StoredBundle, tta: bool) -> CohortRun:
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    return CohortRun(model, {"tta": tta})


def _free_folder(home: Path, stored: StoredBundle, tta: bool) -> Path:
    """A folder for the results of a model: that of an earlier run with it, or a new one."""
    base = check_name(f"{stored.card.name}-{stored.card.version}" + ("-tta" if tta else ""), "cohort")
    for number in range(1, 1000):
        path = home / (base if number == 1 else f"{base}-{number}")
        try:
            before = CohortFolder.read(path)
            if before is not None:
                before.check_run(_run(stored, tta))
            return path
        except ValueError:  # of another model of this name, or damaged
            continue
    raise Conflict(f"{home} holds too many cohorts of {base}; remove some")


def _own_path(client: Client, folder: str) -> Path:
    if not client.local:
        raise Forbidden("only who started this engine may name its folders; choose the cases of a dataset")
    path = Path(folder)
    if not path.is_absolute():
        raise InvalidRequest(f"a folder is an absolute path, {folder!r} is not; give the whole of it")
    return path


def steer(cohort: Cohort, command: str) -> None:
    """Pause or resume a cohort.

    Raises
    ------
    Conflict
        If its state does not allow that.
    """
    state = cohort.state().state
    if command == "pause":
        if state == STARTING:
            line = "the run is just starting; pause it when the first scan is being segmented"
            raise Conflict(line, "cohort-starting")
        if not request_pause(cohort.path):
            line = f"{cohort.path.name} is not being segmented; there is nothing to pause"
            raise Conflict(line, "cohort-idle", folder=cohort.path.name)
        return
    words = cohort.command()
    if words is None:
        line = f"how {cohort.path.name} was segmented is not recorded; start it again with the same folders"
        raise Conflict(line, "cohort-unrecorded", folder=cohort.path.name)
    cohort.start(words)


def describe(engine: Engine, client: Client, cohort: Cohort) -> CohortAnswer:
    """How a cohort stands; raises ValueError if its manifest is damaged."""
    results = cohort.results
    results.refresh()
    state = cohort.state()
    scans, segmented, failed = results.counts()
    if state.state in (NEW, PAUSED, INTERRUPTED) and scans and segmented + failed == scans:
        state = replace(state, state=FINISHED)
    model = results.header.get("model") or {}
    known = {"name", "version", "sha256"} <= model.keys()
    message = without_folders(state.message, _names(engine, client, cohort))
    resumable = (state.state not in (RUNNING, STARTING, SUBMITTED) and segmented < scans) or state.state == FAILED
    return CohortAnswer.model_validate(
        {
            "id": cohort.id,
            "name": cohort.path.name,
            "folder": str(cohort.path) if client.local else without_folders(str(cohort.path), engine.folders()),
            "state": state.state,
            "pausing": state.pausing,
            "message": message,
            "line_codes": codes_for(message),
            "fraction": (segmented + failed) / scans if scans else None,
            "eta_s": state.eta_s,
            "scans": scans,
            "segmented": segmented,
            "failed": failed,
            "resumable": resumable and cohort.command() is not None,
            "model": {name: str(model[name]) for name in ("name", "version", "sha256")} if known else None,
            "version": results.version,
        }
    )


def rows_answer(engine: Engine, client: Client, cohort: Cohort) -> CohortRows:
    """The rows of a cohort."""
    cohort.results.refresh()
    rows = [row_answer(engine, client, row) for row in cohort.results.rows()]
    return CohortRows(version=cohort.results.version, rows=rows)


def row_answer(engine: Engine, client: Client, row: CohortRow) -> CohortRowAnswer:
    """A row; of a scan outside of the roots, the file name alone for a client that did not start the engine."""
    folders = dict(engine.folders())
    if not client.local and (outside := _outside(engine, [row.scan.parent])):
        folders = {row.scan: row.scan.name, **outside, **folders}
    figures, kept = row.figures, row.kept
    named = None if kept is None else {"dataset": Path(kept.dataset).name, "case": kept.case, "revision": kept.revision}
    same = ("phase", "quality", "expected_dice", "confidence", "volumes_ml", "seconds")
    codes = figures.get("line_codes", {})
    flags = [decoded(flag, codes) for flag in figures.get("flags", ())]
    failed = figures.get("error")
    error = None if failed is None else without_folders(decoded(str(failed), codes), folders)
    return CohortRowAnswer.model_validate(
        {
            **{name: figures.get(name) for name in same},
            "id": row.id,
            "name": row.name,
            "scan": without_folders(str(row.scan), folders),
            "state": row.state,
            "flags": flags,
            "error": error,
            "line_codes": codes_for(flags, error),
            "decision": row.review.decision,
            "author": row.review.author,
            "when": row.review.when,
            "kept": named,
        }
    )


def _names(engine: Engine, client: Client, cohort: Cohort) -> Mapping[Path, str]:
    """Folders that a client must not see in the texts of a cohort, and what replaces them."""
    folders = engine.folders()
    if client.local:
        return folders
    places = {row.scan.parent for row in cohort.results.rows()}
    places |= {Path(word) for word in cohort.command() or () if Path(word).is_absolute()}
    return {**_outside(engine, places), **folders}


def _outside(engine: Engine, folders: Iterable[Path]) -> dict[Path, str]:
    """Those of `folders` that lie outside of the roots, and the folders that they lie in."""
    homes = engine.roots.folders.values()
    found: set[Path] = set()
    for folder in folders:
        if ".." in folder.parts or not any(folder.is_relative_to(home) for home in homes):
            found |= {folder, *folder.parents}
    return {folder: _OUTSIDE for folder in found if folder != folder.parent}  # not a drive


def log_tail(engine: Engine, client: Client, cohort: Cohort) -> str:
    """The end of what the run printed."""
    path = cohort.path / WORK / LOG
    data = path.read_bytes()[-_LOG_TAIL:] if path.exists() else b""
    return without_folders(data.decode("utf-8", errors="replace"), _names(engine, client, cohort))


# ---- masks


def mask_row(cohort: Cohort, mask: str) -> CohortRow:
    """The row of a mask; raises `NotFound` if there is none."""
    cohort.results.refresh()
    row = cohort.results.row(mask)
    if row is None or row.state != DONE:
        raise NotFound(f"there is no mask {mask!r} in this cohort")
    return row


def picture(cohort: Cohort, mask: str) -> bytes:
    """The picture of a mask (PNG); raises `NotFound` if it was not drawn."""
    home = cohort.path / PICTURES
    path = home / picture_name(mask_row(cohort, mask).id)
    if not path.is_file() or not path.resolve().is_relative_to(home.resolve()):
        raise NotFound(f"there is no picture of {mask!r}")
    return path.read_bytes()


def mask_of(cohort: Cohort, row: CohortRow) -> Segmentation:
    """A mask, corrected where a person did that."""
    from mper.io import read_segmentation

    return read_segmentation(file_of(cohort.path, row.id, row.review))


def scan_of(engine: Engine, client: Client, cohort: Cohort, row: CohortRow) -> Volume:
    """The scan of a mask.

    Raises
    ------
    Forbidden
        If it lies outside of the roots, and the client did not start this engine.
    """
    whole = row.scan.resolve()
    if not client.local and not any(whole.is_relative_to(home) for home in engine.roots.folders.values()):
        raise Forbidden("the scan lies outside of the roots of this engine", "scan-outside-roots")
    grid = mask_of(cohort, row).labelmap.geometry
    return read_scan(row.scan, row.figures.get("phase"), cohort.results.header.get("options", {}), grid)


def decide(cohort: Cohort, request: ReviewRequest) -> CohortRow:
    """Add a decision on a mask."""
    row = mask_row(cohort, request.mask)
    cohort.results.reviews.decide(row.id, row.sha256, request.decision, request.author, request.seconds)
    return mask_row(cohort, request.mask)


def correct(cohort: Cohort, mask: str, upload: Upload, author: str, seconds: float | None) -> CohortRow:
    """Add a corrected mask: an uploaded array with the label values of the mask, on its grid."""
    row = mask_row(cohort, mask)
    before = mask_of(cohort, row)
    labelmap = on_grid(upload, before.labelmap.geometry, BACKGROUND, "mask")
    provenance = {value: made.edited() for value, made in before.provenance.items()}
    corrected = Segmentation(labelmap, before.labels, provenance)
    cohort.results.reviews.correct(row.id, row.sha256, corrected, author, seconds)
    return mask_row(cohort, mask)
