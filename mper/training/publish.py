"""Publishing: the model of a finished run becomes the next version of a model in the dataset."""

from __future__ import annotations

import filecmp
from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.packed import open_dataset
from mper.models.card import CARD
from mper.progress import Notify, ignore_notice
from mper.training.runs import RunFolder
from mper.utils.cleanup import remove_unfinished
from mper.utils.files import check_name, read_json, write_json

_PUBLISHED = "published.json"


def published_version(run: Path) -> int | None:
    """The version that the model of a run became; None where it was not published."""
    path = run / _PUBLISHED
    return int(read_json(path)["version"]) if path.exists() else None


def publish_run(run: Path, notify: Notify = ignore_notice) -> Path | None:
    """Publish the model of a run under the name that the run was given, once; who asks again gets the same folder.

    Returns
    -------
    Path or None
        The folder of the version; None where the run has no name, or one that no model can have, or its dataset is a
        packed one, which keeps no models (`notify` is called in both cases).
    """
    folder = RunFolder(run)
    config = folder.config()
    if config["name"] is None:
        return None
    try:
        check_name(config["name"], "model")
    except ValueError as error:  # of a run that a version without this check has begun
        notify(f"the model is not published ({error}); it stays in {folder.model}")
        return None
    dataset = open_dataset(Path(config["dataset"]))
    if not isinstance(dataset, Dataset):
        notify(f"a packed dataset keeps no models; copy {folder.model} to where it is needed")
        return None
    version = published_version(run)
    if version is not None:
        return dataset.model(config["name"], version)
    made = _published_before(dataset, config["name"], folder.model)
    made = made or dataset.publish_model(config["name"], folder.model)
    remove_unfinished([made.parent, run])
    write_json(run / _PUBLISHED, {"name": config["name"], "version": int(made.name)})
    return made


def _published_before(dataset: Dataset, name: str, bundle: Path) -> Path | None:
    """The version that is this very model: of a program that was killed before it wrote down what it had published."""
    versions = dataset.model_versions(name) if name in dataset.models else []
    folders = (dataset.model(name, version) for version in reversed(versions))
    return next((folder for folder in folders if _is_same(folder, bundle)), None)


def _is_same(version: Path, bundle: Path) -> bool:
    """Whether all files are equal, but for name and version in the card."""
    files = sorted(path.name for path in bundle.iterdir())
    others = [name for name in files if name != CARD]
    try:
        cards = [{**read_json(folder / CARD), "name": "", "version": ""} for folder in (version, bundle)]
        same = cards[0] == cards[1] and files == sorted(path.name for path in version.iterdir())
    except (OSError, ValueError):  # that version is damaged
        return False
    return same and filecmp.cmpfiles(version, bundle, others, shallow=False)[0] == others
