"""Evaluation: a model on the labelled cases of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mper.evaluation.metrics import MeanFigures, case_metrics, cohort_metrics
from mper.labels import BACKGROUND, UNLABELLED, Label
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress, part_of
from mper.utils.coded import Coded
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor

CASE_NOTE = "case-note"  # code of a note about the mask of a case


class LabelledScan(Protocol):
    """A case with a label, such as one of a `mper.datasets.dataset.Dataset` or of packed shards."""

    @property
    def id(self) -> str: ...

    def image(self) -> Volume: ...

    def label(self) -> Volume | None: ...


class CaseResult(MeanFigures):
    """The figures of a case: its mean over labels, each label, the confidence, and the time in seconds."""

    id: str
    labels: dict[str, Any]
    confidence: float
    seconds: float


def choose_split(splits: Mapping[str, Sequence[str]], holdout: str | None = None) -> str:
    """The default split to evaluate on: the locked hold-out, else ``test``, ``val``, or the only one.

    Raises
    ------
    ValueError
        If there are several others, or none.
    """
    for name in (holdout, "test", "val"):
        if name is not None and name in splits:
            return name
    if len(splits) == 1:
        return next(iter(splits))
    if not splits:
        raise ValueError("the dataset has no split; make one with `mper import --split NAME`")
    raise ValueError(f"the dataset has the splits {', '.join(splits)}; choose one with --split")


def match_labels(
    model: Sequence[Label], dataset: Sequence[Label], notify: Notify = ignore_notice
) -> list[tuple[Label, Label]]:
    """Labels of a model and of a dataset that have the same name, in any case.

    Returns
    -------
    list of (Label, Label)
        The model's and the dataset's, in the dataset's order. `notify` receives those that only one has.

    Raises
    ------
    ValueError
        If no name is shared.
    """
    by_name = {label.name.casefold(): label for label in model}
    pairs = [(by_name[label.name.casefold()], label) for label in dataset if label.name.casefold() in by_name]
    ours, theirs = (", ".join(label.name for label in labels) for labels in (model, dataset))
    if not pairs:
        line = f"the model segments {ours}, the dataset has labels of {theirs}: no structure can be compared"
        raise ValueError(Coded(line, "nothing-to-compare", ours=ours, theirs=theirs))
    shared = {label.name for _, label in pairs}
    if missing := [label.name for label in dataset if label.name not in shared]:
        names = ", ".join(missing)
        line = f"the model does not segment {names}: not evaluated"
        notify(Coded(line, "not-evaluated", structures=names))
    if len(pairs) < len(model):
        names = ", ".join(sorted(shared))
        line = f"the dataset does not label all of {ours}: only {names} is evaluated"
        notify(Coded(line, "partly-evaluated", ours=ours, structures=names))
    return pairs


def evaluate(
    predictor: Predictor,
    cases: Sequence[LabelledScan],
    labels: Sequence[Label],
    tta: bool = False,
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
    keep: Callable[[str, Volume], None] | None = None,
) -> dict[str, Any]:
    """Segment every labelled case and compare it with its label.

    Parameters
    ----------
    predictor : Predictor
    cases : sequence of LabelledScan
        Those without a label are left out; `notify` receives their number.
    labels : sequence of Label
        Of the dataset; matched to the model's by name.
    tta : bool
        Average over mirrored copies.
    keep : callable or None
        Receives each case's id and mask, in the dataset's label values.

    Returns
    -------
    dict
        ``mean`` (over cases of each case's mean over labels), ``labels`` (each label's mean over cases), ``cases``
        (`CaseResult` each, in their order), ``seconds_per_case`` (mean time of a prediction, without reading).

    Raises
    ------
    ValueError
        If no case has a label, or the model segments none of the labels.
    """
    pairs = match_labels(predictor.bundle.card.labels, labels, notify)
    lookup = np.full(256, BACKGROUND, np.uint8)
    for of_model, of_dataset in pairs:
        lookup[of_model.value] = of_dataset.value
    compared = [label for _, label in pairs]
    results: list[CaseResult] = []
    metrics = []
    unlabelled = 0
    partly = []
    for done, case in enumerate(cases):
        beat = part_of(report, done / len(cases), 1 / len(cases), f"case {done + 1} of {len(cases)}")
        beat(Progress("reading", 0.0))
        reference = case.label()
        if reference is None or not (reference.array != UNLABELLED).any():
            unlabelled += 1
            continue
        if (reference.array == UNLABELLED).any():
            partly.append(case.id)
        image = case.image()
        begin = time.perf_counter()
        prediction = predictor.predict(image, tta=tta, report=beat)
        seconds = time.perf_counter() - begin
        mask = lookup[prediction.segmentation.labelmap.array]
        if keep is not None:
            keep(case.id, image.with_array(mask))
        found = case_metrics(
            mask,
            np.asarray(reference.array, np.uint8),
            compared,
            image.geometry.spacing_mm,
        )
        metrics.append(found)
        results.append(
            CaseResult(
                **found["mean"],
                id=case.id,
                labels=dict(found["labels"]),
                confidence=round(float(prediction.confidence), 4),
                seconds=round(seconds, 4),
            )
        )
        for note in prediction.notes:
            notify(Coded(f"{case.id}: {note}", CASE_NOTE, case=case.id, note=note))
    if unlabelled:
        line = f"{unlabelled} of {len(cases)} cases have no label and were left out"
        notify(Coded(line, "unlabelled-left-out", n=unlabelled, total=len(cases)))
    if partly:
        names = ", ".join(partly)
        line = f"{names}: partly labelled. Only labelled voxels are evaluated, and these are no random sample"
        notify(Coded(line, "partly-labelled", cases=names))
    if not results:
        line = f"none of the {len(cases)} cases has a label; label at least one"
        raise ValueError(Coded(line, "none-labelled", n=len(cases)))
    cohort = cohort_metrics(metrics)
    return {
        "mean": cohort["mean"],
        "labels": cohort["labels"],
        "cases": results,
        "seconds_per_case": round(float(np.mean([result["seconds"] for result in results])), 4),
    }
