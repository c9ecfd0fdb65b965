"""Which models there are, what a model id means, and the models that are loaded."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mper.datasets.dataset import Dataset
from mper.engine.errors import NotFound
from mper.engine.schemas.common import LabelModel
from mper.engine.schemas.info import DatasetOrigin, ModelAnswer
from mper.engine.services.notes import Notes
from mper.engine.services.roots import Roots
from mper.models.card import Card, StoredBundle, read_bundle
from mper.resources import bundled_models

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor

_LOADED = 4  # models kept ready; the bundled ones are 20 to 40 MB each


class ModelCatalog:
    """The bundled models and those of the datasets under the roots.

    Parameters
    ----------
    roots : Roots
    """

    def __init__(self, roots: Roots):
        self._roots = roots
        self._loaded: OrderedDict[tuple[Path, str, str], Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def list(self, notes: Notes) -> list[ModelAnswer]:
        """All models; one that cannot be read is left out, with a note."""
        entries = []
        for model_id, path, origin in self._all(notes):
            with notes.skipping(f"the model {model_id}"):
                entries.append(_answer(model_id, read_bundle(path), origin))
        return entries

    def path(self, model_id: str) -> Path:
        """The folder of a model: ``la``, ``DATASET_ID/NAME/VERSION``, or ``DATASET_ID/NAME`` for the current version.

        Raises
        ------
        NotFound
            If there is none.
        """
        for path in bundled_models():
            if path.name == model_id:
                return path
        parts = model_id.replace("~", "/").split("/")
        for names in (2, 1):
            dataset_id, (name, *version) = "/".join(parts[:-names]), parts[-names:]
            with contextlib.suppress(NotFound, ValueError, OSError):
                return Dataset.open(self._roots.dataset(dataset_id)).model(name, *map(int, version))
        line = f"there is no model {model_id!r}: its folder was moved or deleted, or it was never here"
        raise NotFound(line, "no-model", model=model_id)

    def predictor(self, model_id: str, device: str) -> Predictor:
        """A model made ready on a device; kept, until others are used more."""
        from mper.inference.predictor import Predictor
        from mper.models.bundle import ModelBundle

        stored = read_bundle(self.path(model_id))
        key = (stored.path, stored.sha256, device)
        with self._lock:  # two jobs that need the same model must not both load it
            if key not in self._loaded:
                self._loaded[key] = Predictor(ModelBundle.load(stored.path), device)
                while len(self._loaded) > _LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def _all(self, notes: Notes) -> Iterator[tuple[str, Path, Literal["bundled"] | DatasetOrigin]]:
        for path in bundled_models():
            if not _localizes(path):
                yield path.name, path, "bundled"
        for dataset_id, folder in self._roots.datasets():
            with notes.skipping(f"the dataset {dataset_id}"):
                dataset = Dataset.open(folder)
                for name in dataset.models:
                    with notes.skipping(f"the model {dataset_id}/{name}"):
                        yield from _versions(dataset, dataset_id, name, notes)


def _versions(dataset: Dataset, dataset_id: str, name: str, notes: Notes) -> Iterator[tuple[str, Path, DatasetOrigin]]:
    current = version_in_use(dataset, name, notes)
    for version in dataset.model_versions(name):
        origin = DatasetOrigin(dataset=dataset_id, name=name, version=str(version), current=version == current)
        yield f"{dataset_id}/{name}/{version}", dataset.model(name, version), origin


def version_in_use(dataset: Dataset, name: str, notes: Notes) -> int:
    """The current version of a model; 0, with a note, where the file that names it is damaged."""
    version = 0
    with notes.skipping(f"the choice of a version of the model {name}"):
        found = dataset.current_version(name)
        dataset.model(name, found)  # it may have been removed by hand
        version = found
    return version


def label_answers(card: Card) -> list[LabelModel]:
    """The labels of a model's card."""
    return [LabelModel.model_validate(label) for label in card.labels]


def _answer(model_id: str, stored: StoredBundle, origin: Literal["bundled"] | DatasetOrigin) -> ModelAnswer:
    card = stored.card
    return ModelAnswer(
        id=model_id,
        name=card.name,
        version=card.version,
        title=card.title,
        button=f"Segment {'/'.join(label.name for label in card.labels)}",
        labels=label_answers(card),
        card={**dict(card.about), "sha256": stored.sha256},
        origin=origin,
    )


def _localizes(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return read_bundle(path).card.localizes
    return False  # a damaged one is told where it is read
