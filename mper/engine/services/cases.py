"""Cases of a dataset: adding a scan, and the revisions of its label."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mper.datasets.case import Case
from mper.datasets.dataset import Dataset
from mper.datasets.events import CaseHistory
from mper.datasets.revisions import Revision
from mper.datasets.scan_record import voxels_sha256
from mper.engine.errors import Conflict, InvalidRequest, NotFound
from mper.engine.schemas.common import ModelName, codes_for
from mper.engine.schemas.datasets import AddedCase, CaseAnswer, CaseRequest, DamagedCase, PredictedBy, RevisionAnswer
from mper.engine.schemas.strokes import KeptStroke, KeptStrokes, StrokesRequest
from mper.engine.services.engine import Engine
from mper.engine.services.uploads import Upload
from mper.labels import BACKGROUND, UNLABELLED
from mper.strokes import StrokeList
from mper.utils.coded import Coded
from mper.utils.files import nfc
from mper.volume import Geometry, Volume


def list_cases(
    engine: Engine, dataset: Dataset, first: int = 0, count: int | None = None, contains: str = ""
) -> list[CaseAnswer | DamagedCase]:
    """`count` cases (all by default) from the number `first` on, of those whose id or display name has a text in it.

    A damaged one says so and hides no other.
    """
    split_of = {case_id: name for name, ids in dataset.splits.items() for case_id in ids}
    history = dataset.history
    answers: list[CaseAnswer | DamagedCase] = []
    wanted = contains.casefold()
    ids = [i for i in dataset.cases if wanted in i.casefold() or wanted in history.names.get(i, "").casefold()]
    for case_id in ids[first : None if count is None else first + count]:
        split = split_of.get(case_id)
        try:
            answers.append(case_answer(dataset.case(case_id), split, history))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            line = engine.explain(error)
            answers.append(DamagedCase(id=case_id, split=split, error=line, line_codes=codes_for(line)))
    return answers


def describe_case(dataset: Dataset, case_id: str) -> CaseAnswer:
    """A case as `list_cases` has it."""
    case = dataset.case(case_id)
    split = next((name for name, ids in dataset.splits.items() if case.id in ids), None)
    return case_answer(case, split, dataset.history)


def case_answer(case: Case, split: str | None, history: CaseHistory) -> CaseAnswer:
    """A case, with what its newest revision says."""
    revisions = case.revisions()
    newest = revisions[-1] if revisions else None
    confidence, predicted_by = _last_prediction(case)
    return CaseAnswer(
        id=case.id,
        labelled=newest is not None,
        revisions=len(revisions),
        author=newest.author if newest else None,
        when=newest.when if newest else None,
        how=newest.how if newest else None,
        edited=newest.edited if newest else None,
        split=split,
        shape=case.geometry.shape,
        spacing_mm=case.geometry.spacing_mm,
        confidence=confidence,
        predicted_by=predicted_by,
        partial=newest.partial if newest else False,
        strokes=newest.strokes if newest else False,
        source=case.source,
        display_name=history.names.get(case.id),
        excluded=case.id in history.excluded,
        voxels_sha256=case.voxels_sha256,
        region_mm=history.regions.get(case.id),
    )


def _last_prediction(case: Case) -> tuple[float | None, PredictedBy | None]:
    """What the last ranking kept; nothing where that is damaged: it is computed again."""
    kept = case.last_prediction() or {}
    try:
        model = kept.get("model")
        return kept.get("confidence"), None if model is None else PredictedBy.model_validate(model)
    except ValueError:
        return None, None


def add_case(engine: Engine, client: str, dataset: Dataset, request: CaseRequest) -> AddedCase:
    """Keep an uploaded scan as a case.

    Raises
    ------
    NotFound, Conflict, FileExistsError, ValueError
        If there is no such scan, the hold-out is concerned, the id is taken, or cannot be a folder's name.
    """
    split = None if request.split is None else nfc(request.split)
    if split is not None and split in dataset.locked_splits:
        line = f"split {split!r} is the locked hold-out of this dataset; choose another"
        raise Conflict(line, "split-locked", split=split)
    with engine.scans.using(client, request.scan) as scan:
        image = scan.volume()
        same = dataset.same_scan(image)
        check_not_held_out(dataset, same)
        if request.id is None:
            case = _add_numbered(dataset, image, request)
        else:
            case = dataset.add_case(request.id, image, request.source)
    if split is not None:
        dataset.add_to_split(split, [case.id])
    names = ", ".join(same)
    notices = [Coded(f"this scan is in the dataset already, as {names}", "same-scan", cases=names)] if same else []
    answer = dict(case_answer(case, split, dataset.history))
    return AddedCase(**answer, duplicates=same, notices=list(notices), line_codes=codes_for(notices))


def check_not_held_out(dataset: Dataset, same: Iterable[str]) -> None:
    """Raise `Conflict` if one of the cases that are the same scan is in the locked hold-out."""
    if locked := [case_id for case_id in same if case_id in dataset.held_out]:
        line = f"this scan is case {locked[0]} of the locked hold-out already; it is never trained on"
        raise Conflict(line, "scan-held-out", case=locked[0])


def _add_numbered(dataset: Dataset, image: Volume, request: CaseRequest) -> Case:
    """Add a case under the next free number."""
    known = (re.fullmatch(r"case-(\d+)", case_id) for case_id in dataset.cases)
    number = max((int(match[1]) for match in known if match), default=0) + 1
    while True:
        try:
            return dataset.add_case(f"case-{number:03d}", image, request.source)
        except FileExistsError:
            number += 1


# ---------------------------------------------------------------------- labels


def add_label(
    case: Case,
    upload: Upload,
    *,
    author: str,
    how: str,
    edited: bool,
    model: tuple[str, str] | None,
    seconds: float | None,
    parent: int | None,
    outside: int,
) -> RevisionAnswer:
    """Add an uploaded array as a revision; outside of an array that is a part of the grid the value is `outside`."""
    made = case.add_label(
        on_grid(upload, case.geometry, outside, "case"),
        author=author,
        how=how,
        edited=edited,
        model=model,
        seconds=seconds,
        parent=parent,
    )
    return revision_answer(made)


def check_scan(case: Case, scan_sha256: str) -> None:
    """Raise `Conflict` if a label was drawn on another scan than that of its case."""
    own = case.voxels_sha256 or voxels_sha256(case.image())
    if scan_sha256.lower() != own:
        raise Conflict(
            f"the mask was drawn on another image than the scan of {case.id}: their voxels differ; save it under "
            "another name, as a case of its own, or draw it on the scan that MPER Trainer opens",
            "other-image",
            case=case.id,
        )


def on_grid(upload: Upload, grid: Geometry, outside: int, what: str) -> Volume:
    """An uploaded label on the grid of a scan, which is `what`."""
    header = upload.header
    start = header.start or (0, 0, 0)
    stop = [a + n for a, n in zip(start, header.shape, strict=True)]
    if header.start is None and header.shape != grid.shape:
        raise InvalidRequest(
            f"the label has {_size(header.shape)} voxels, the {what} {_size(grid.shape)}; a part of it needs a start"
        )
    if any(b > n for b, n in zip(stop, grid.shape, strict=True)):
        raise InvalidRequest(f"the label reaches to voxel {_size(stop)}, the {what} has {_size(grid.shape)}")
    if header.geometry is not None and not header.geometry.is_close(grid.crop(start, stop)):
        raise InvalidRequest(f"the label lies elsewhere than the voxels of the {what}; send it on the same grid")
    array = upload.open()
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > UNLABELLED:
        raise InvalidRequest(f"a label has whole numbers of 0 to 255, this one is {array.dtype}; send uint8")
    whole = np.full(grid.shape, outside, dtype=np.uint8)
    whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = array
    return Volume(whole, grid)


def label_of(case: Case, number: int) -> Volume:
    """The label of a revision; raises `NotFound` if there is none of that number."""
    _revision(case, number)
    mask = case.label(number)
    assert mask is not None
    return mask


def restore(case: Case, number: int, author: str) -> RevisionAnswer:
    """Add an old revision, with its strokes, again as the newest one."""
    old = _revision(case, number)
    made = case.add_label(
        label_of(case, number),
        author=author,
        how=old.how,
        edited=old.edited,
        model=old.model,
        parent=number,
        strokes=case.strokes(number),
    )
    return revision_answer(made)


def revision_answer(revision: Revision) -> RevisionAnswer:
    """A revision of a label."""
    model = revision.model
    return RevisionAnswer(
        number=revision.number,
        author=revision.author,
        when=revision.when,
        how=revision.how,
        edited=revision.edited,
        model=None if model is None else ModelName(name=model[0], version=model[1]),
        seconds=revision.seconds,
        parent=revision.parent,
        partial=revision.partial,
        strokes=revision.strokes,
    )


def keep_strokes(case: Case, number: int, request: StrokesRequest) -> RevisionAnswer:
    """Keep strokes with a revision; raises `NotFound` if there is none of that number."""
    _revision(case, number)
    case.keep_strokes(number, request.listed())
    return revision_answer(_revision(case, number))


def kept_strokes(case: Case, number: int) -> KeptStrokes:
    """The strokes that are kept with a revision; raises `NotFound` if there are none."""
    _revision(case, number)
    kept = case.strokes(number)
    if kept is None:
        raise NotFound(f"label revision {number} of case {case.id} has no strokes")
    names = {BACKGROUND: "background", **{label.value: label.name for label in case.labels}}
    return KeptStrokes(strokes=_kept(kept, names), scan_sha256=kept.scan_sha256, model=kept.model)


def _kept(strokes: StrokeList, names: dict[int, str]) -> list[KeptStroke]:
    return [
        KeptStroke(
            value=stroke.value,
            name=names.get(stroke.value, str(stroke.value)),
            points_mm=list(stroke.points_mm),
            radius_mm=stroke.radius_mm,
        )
        for stroke in strokes.strokes
    ]


def label_by_strokes(
    case: Case, request: StrokesRequest, author: str, seconds: float | None, parent: int | None
) -> RevisionAnswer:
    """Add a revision that is labelled where it was painted, and unlabelled elsewhere."""
    return revision_answer(case.add_painted(request.listed(), author=author, seconds=seconds, parent=parent))


def _revision(case: Case, number: int) -> Revision:
    for revision in case.revisions():
        if revision.number == number:
            return revision
    raise NotFound(f"case {case.id} has no label revision {number}")


def _size(shape: Iterable[int]) -> str:
    return "x".join(str(n) for n in shape)
