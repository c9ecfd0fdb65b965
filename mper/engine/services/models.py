"""Which models there are, what a model id means, and the models that are loaded."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.datasets.dataset import Dataset
from mper.engine.errors import Refused
from mper.engine.services.roots import Roots
from mper.labels import Label
from mper.models.card import Card, StoredBundle, read_bundle
from mper.resources import bundled_models

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor

_LOADED = 4  # models kept ready; the bundled ones are 20 to 40 MB each
_FINDERS = "locator"


class Models:
    """The bundled models and those of the datasets under the roots.

    Parameters
    ----------
    roots : Roots
    """

    def __init__(self, roots: Roots):
        self._roots = roots
        self._loaded: OrderedDict[tuple[Path, str, str], Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def list(self) -> list[dict[str, Any]]:
        """All models, as the protocol has them; a damaged one is left out."""
        entries = []
        for model_id, path, origin in self._all():
            with contextlib.suppress(OSError, ValueError):
                entries.append(_entry(model_id, read_bundle(path), origin))
        return entries

    def path(self, model_id: str) -> Path:
        """The folder of a model: ``la``, ``DATASET_ID/NAME/VERSION``, or ``DATASET_ID/NAME`` for the current version.

        Raises
        ------
        Refused
            404 if there is none.
        """
        for path in bundled_models():
            if path.name == model_id:
                return path
        parts = model_id.replace("~", "/").split("/")
        for names in (2, 1):
            dataset_id, (name, *version) = "/".join(parts[:-names]), parts[-names:]
            with contextlib.suppress(Refused, ValueError, OSError):
                return Dataset.open(self._roots.dataset(dataset_id)).model(name, *map(int, version))
        raise Refused(404, f"there is no model {model_id!r}; GET /models lists them")

    def bundle(self, model_id: str) -> StoredBundle:
        """Card and checksum of a model, without its weights."""
        return read_bundle(self.path(model_id))

    def predictor(self, model_id: str, device: str) -> Predictor:
        """A model made ready on a device; kept, until others are used more."""
        from mper.inference.predictor import Predictor
        from mper.models.bundle import ModelBundle

        stored = self.bundle(model_id)
        key = (stored.path, stored.sha256, device)
        with self._lock:  # two jobs that need the same model must not both load it
            if key not in self._loaded:
                self._loaded[key] = Predictor(ModelBundle.load(stored.path), device)
                while len(self._loaded) > _LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def _all(self) -> Iterator[tuple[str, Path, Any]]:
        bundled = [(path.name, path) for path in bundled_models()]
        finders = {_finder_of(path) for _, path in bundled}
        for name, path in bundled:
            if name not in finders:
                yield name, path, "bundled"
        for dataset_id, folder in self._roots.datasets():
            dataset = Dataset.open(folder)
            for name in dataset.models:
                current = dataset.current_version(name)
                for version in dataset.model_versions(name):
                    origin = {
                        "dataset": dataset_id,
                        "name": name,
                        "version": str(version),
                        "current": version == current,
                    }
                    yield f"{dataset_id}/{name}/{version}", dataset.model(name, version), origin


def label_entry(label: Label) -> dict[str, Any]:
    """A label as the protocol has it."""
    return {**asdict(label), "colour": list(label.colour)}


def button(card: Card) -> str:
    """What a button that runs the model says: ``Segment RV/MYO/LV``."""
    return f"Segment {'/'.join(label.name for label in card.labels)}"


def _entry(model_id: str, stored: StoredBundle, origin: Any) -> dict[str, Any]:
    card = stored.card
    return {
        "id": model_id,
        "name": card.name,
        "version": card.version,
        "title": card.title,
        "button": button(card),
        "labels": [label_entry(label) for label in card.labels],
        "card": {**dict(card.about), "sha256": stored.sha256},
        "origin": origin,
    }


def _finder_of(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return read_bundle(path).card.about.get(_FINDERS)
    return None
