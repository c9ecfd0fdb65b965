"""Comparison of a new version of a model with the one in use, on cases that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mper.evaluation.evaluate import CASE_NOTE, LabelledScan, evaluate, match_labels
from mper.labels import Label
from mper.progress import Notify, Report, ignore_notice, ignore_progress, part_of
from mper.utils.coded import Coded, joined
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor

BEFORE, AFTER = "before", "after"
_VERSIONS = {BEFORE: "current version", AFTER: "new version"}
_FEW = 6  # cases, below which a paired test cannot be significant
_LEVEL = 0.05
_SAME = 5e-4  # two Dice that round to the same figure are the same
_FINEST = 0.01  # of a mean difference: two people who label the same scan differ by more


@dataclass(frozen=True)
class CaseChange:
    """One case: mean Dice before and after, and that of each structure."""

    id: str
    before: float
    after: float
    labels: dict[str, tuple[float, float]]


def compare(
    old: Callable[[], Predictor],
    new: Callable[[], Predictor],
    cases: Sequence[LabelledScan],
    labels: Sequence[Label],
    report: Report = ignore_progress,
    notify: Notify = ignore_notice,
    keep: Callable[[str, str, Volume], None] | None = None,
) -> dict[str, Any]:
    """Evaluate both on the same cases.

    Parameters
    ----------
    old, new : callable
        Each returns its predictor when it is needed, so that only one is in memory.
    cases, labels
        As for `mper.evaluation.evaluate.evaluate`.
    notify : Notify
        Receives what is unusual; what is about the mask of a case names the version.
    keep : callable or None
        Receives each mask: case id, "before" or "after", and the mask in the dataset's label values.

    Returns
    -------
    dict
        ``cases`` (`CaseChange` as dictionaries, worst after first), ``mean_before``, ``mean_after``, ``words``.

    Raises
    ------
    ValueError
        If no case has a label, a model segments none of the labels, or the two have no structure in common.
    """
    found = {}
    structures: list[str] = []
    for n, (when, predictor) in enumerate(((BEFORE, old), (AFTER, new))):

        def keep_one(case_id: str, mask: Volume, when: str = when) -> None:
            if keep is not None:
                keep(case_id, when, mask)

        def notify_of_version(line: str, when: str = when) -> None:
            if isinstance(line, Coded) and line.code == CASE_NOTE:
                line = Coded(f"{line} ({_VERSIONS[when]})", f"{CASE_NOTE}-{when}", **line.values)
            notify(line)

        beat = part_of(report, n / 2, 1 / 2, f"the {_VERSIONS[when]}")
        model = predictor()
        structures = _in_common(structures, model.bundle.card.labels, labels)
        found[when] = evaluate(model, cases, labels, report=beat, notify=notify_of_version, keep=keep_one)
    after = {result["id"]: result for result in found[AFTER]["cases"]}
    changes = []
    for result in found[BEFORE]["cases"]:
        then = after[result["id"]]
        shared = [name for name in result["labels"] if name in then["labels"]]
        each = {name: (result["labels"][name]["dice"], then["labels"][name]["dice"]) for name in shared}
        changes.append(CaseChange(result["id"], _mean(each, 0), _mean(each, 1), each))
    changes.sort(key=lambda change: (change.after, change.id))
    return {
        "cases": [
            {
                "id": change.id,
                "before": change.before,
                "after": change.after,
                "labels": {name: {"before": b, "after": a} for name, (b, a) in change.labels.items()},
            }
            for change in changes
        ],
        "mean_before": float(np.mean([change.before for change in changes])),
        "mean_after": float(np.mean([change.after for change in changes])),
        "words": summary_text([(change.before, change.after) for change in changes]),
    }


def _in_common(before: Sequence[str], model: Sequence[Label], labels: Sequence[Label]) -> list[str]:
    """The structures of a dataset that a model segments, of which the one before, if there was one, has some."""
    names = [label.name for _, label in match_labels(model, labels)]
    if before and not set(before) & set(names):
        one, other = ", ".join(before), ", ".join(names)
        line = f"the current version segments {one}, the new one {other}: no structure can be compared"
        raise ValueError(Coded(line, "none-in-common", before=one, after=other))
    return names


def _mean(each: dict[str, tuple[float, float]], which: int) -> float:
    return float(np.mean([pair[which] for pair in each.values()]))


def summary_text(pairs: Sequence[tuple[float, float]]) -> str:
    """A summary of Dice before and after: the change, and whether it may be chance.

    With six cases or more it holds the p value of Wilcoxon's signed-rank test; with fewer, which cannot be significant,
    the smallest mean difference that a paired t interval could distinguish from none.
    """
    before, after = (np.array(values) for values in zip(*pairs, strict=True))
    change = after - before
    better, worse = int((change > _SAME).sum()), int((change < -_SAME).sum())
    n = len(pairs)
    counts = "" if n == 1 else f" (better on {better}, worse on {worse}, as good on {n - better - worse})"
    cases = "1 held-out case" if n == 1 else f"{n} held-out cases"
    old, new = f"{before.mean():.3f}", f"{after.mean():.3f}"
    line = f"On {cases} the mean Dice changes from {old} to {new}{counts}."
    figures = {"n": n, "better": better, "worse": worse, "same": n - better - worse}
    sentences = [Coded(line, "compared-one" if n == 1 else "compared", before=old, after=new, **figures)]
    if not better and not worse:
        sentences.append(Coded("There is no difference.", "no-difference"))
    elif n == 1:
        line = "One case allows no conclusion; label more cases for the hold-out."
        sentences.append(Coded(line, "one-case"))
    elif n < _FEW:
        resolution = _resolution(change)
        small = abs(change.mean()) <= resolution
        verdict = "this one may be chance" if small else "this one is larger, but based on few cases"
        shown = f"{resolution:.3f}"
        line = f"So few cases cannot show mean differences below about {shown}: {verdict}."
        sentences.append(Coded(line, "few-cases-chance" if small else "few-cases-larger", resolution=shown))
    else:
        sentences.append(_verdict(change))
    if worse:
        lost = int(change.argmin())
        loss, old, new = f"{-change[lost]:.3f}", f"{before[lost]:.3f}", f"{after[lost]:.3f}"
        line = f"The largest loss is {loss} ({old} to {new})."
        sentences.append(Coded(line, "largest-loss", loss=loss, before=old, after=new))
    return joined(sentences, " ")


def _resolution(change: np.ndarray) -> float:
    """Half the width of the 95 % interval of the mean change."""
    from scipy import stats

    n = len(change)
    return max(_FINEST, float(stats.t.ppf(0.975, n - 1) * change.std(ddof=1) / np.sqrt(n)))


def _verdict(change: np.ndarray) -> Coded:
    """Whether a change may be chance; the test ranks the cases, so that its direction may not be that of the mean."""
    from scipy import stats

    p = float(stats.wilcoxon(change).pvalue)
    test = f"(Wilcoxon's signed-rank test, p = {_p(p)})"
    if p >= _LEVEL:
        return Coded(f"Such a difference may be chance {test}.", "may-be-chance", p=_p(p))
    if np.sum(np.sign(change) * stats.rankdata(np.abs(change))) * change.mean() < 0:
        line = f"Most cases change in the other direction than the mean, unlikely by chance {test}; look at the cases."
        return Coded(line, "other-direction", p=_p(p))
    return Coded(f"Such a difference is unlikely to be chance {test}.", "no-chance", p=_p(p))


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else Coded("below 0.001", "p-small")
