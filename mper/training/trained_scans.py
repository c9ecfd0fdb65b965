"""Which scans a model was trained on, also those of the models that it was fine-tuned from.

A scan is named by the first digits of its voxels' checksum (`mper.datasets.scan_record`): the same in every dataset,
also a packed one, and it tells nothing of a patient to who does not have the scan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mper.datasets.case import Case
from mper.datasets.index import DATASET
from mper.datasets.packed import PackedCase, open_dataset
from mper.datasets.scan_record import voxels_sha256
from mper.models.card import read_bundle
from mper.training.publish import published_version
from mper.training.runs import CASES, RunFolder
from mper.utils.coded import Coded
from mper.utils.files import read_json
from mper.utils.text import shorten

TRAINED_ON = "trained_on"  # in the card's ``about["training"]``, and in a run's cases.json: ids
SCANS = "scans"  # in a run's cases.json
_DIGITS = 16
_NAMED = 5  # cases, of all that a line is about


def scan_checksum(case: Case | PackedCase) -> str:
    """What the scan of a case is named by."""
    return (case.voxels_sha256 or voxels_sha256(case.image()))[:_DIGITS]


def known_cases(model: Path, cases: Iterable[Case | PackedCase]) -> list[str]:
    """The ids of those cases whose scans the model of a bundle was trained on, as far as that is known."""
    scans = scans_of_model(model)
    return [case.id for case in cases if scan_checksum(case) in scans] if scans else []


def about_known(case_ids: Sequence[str]) -> str:
    """That the start model of a run was trained on held-out cases."""
    cases = shorten(case_ids, _NAMED)
    line = (
        f"{cases}: held out, and the model that this run starts from was trained on it, so the hold-out is measured "
        "without it; start from another model, or train from scratch, for figures on it"
    )
    return Coded(line, "held-out-known", cases=cases)


def scans_of_model(path: Path) -> set[str]:
    """The scans that the model of a bundle was trained on, as far as they are known.

    The card names them; of a model that an older version trained, the run that made it is looked for.
    """
    path = path.resolve()
    training = read_bundle(path).card.about.get("training")
    stored = training.get(TRAINED_ON) if isinstance(training, dict) else None
    if isinstance(stored, list):
        return set(map(str, stored))
    found: set[str] = set()
    for run in _runs_of(path):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged run tells nothing
            found |= scans_of_run(run)
    return found


def _runs_of(path: Path) -> Iterator[Path]:
    """The run in whose folder a model lies, or those of the dataset in which it is a version."""
    if path.name == "model" and (path.parent / "config.json").is_file():
        yield path.parent
        return
    for config in sorted(path.parent.parent.parent.glob("runs/*/config.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            name, version = read_json(config)["name"], published_version(config.parent)
            if (str(name).casefold(), str(version)) == (path.parent.name.casefold(), path.name):
                yield config.parent


def scans_of_run(run: Path) -> set[str]:
    """The scans that the model of a run was trained on, as far as they are known."""
    record = read_json(run / CASES) if (run / CASES).exists() else {}
    if SCANS in record:
        return set(map(str, record[SCANS]))
    config = RunFolder(run).config()
    stored, here = Path(str(config["dataset"])), run.parent.parent
    home = here if (here / DATASET).exists() else stored  # which may have been moved
    dataset = open_dataset(home)
    there = set(dataset.cases)
    found = {scan_checksum(dataset.case(case_id)) for case_id in record.get(TRAINED_ON, ()) if case_id in there}
    if config.get("start_from"):
        start = Path(config["start_from"])
        start = home / start.relative_to(stored) if start.is_relative_to(stored) else start
        with contextlib.suppress(OSError, ValueError):  # it was deleted, or is damaged
            found |= scans_of_model(start)
    return found
