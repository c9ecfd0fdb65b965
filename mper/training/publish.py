"""Publishing: the model of a finished run becomes the next version of a model in the dataset."""

from __future__ import annotations

from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.packed import open_dataset
from mper.progress import Notify, ignore_notice
from mper.training.runs import RunFolder
from mper.utils.files import read_json, write_json

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
        The folder of the version; None where the run has no name, or its dataset is a packed one, which keeps no
        models (`notify` is called).
    """
    folder = RunFolder(run)
    config = folder.config()
    if config["name"] is None:
        return None
    dataset = open_dataset(Path(config["dataset"]))
    if not isinstance(dataset, Dataset):
        notify(f"a packed dataset keeps no models; copy {folder.model} to where it is needed")
        return None
    version = published_version(run)
    if version is not None:
        return dataset.model(config["name"], version)
    made = dataset.publish_model(config["name"], folder.model)
    write_json(run / _PUBLISHED, {"name": config["name"], "version": int(made.name)})
    return made
