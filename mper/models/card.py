"""The card of a model bundle: everything about a model but its weights, readable without torch.

A bundle is a folder, or one zip of its files:

    card.json             this
    weights.safetensors   named in the card with its SHA-256
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mper.labels import Label, check_labels, label_from_dict

CARD = "card.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1
STORAGES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Card:
    """What a model is, how it wants its scans, and what is known of it.

    Parameters
    ----------
    name, version, title : str
        ``la``, ``1.0.0``, and a line for people.
    labels : tuple of Label
        Foreground classes: class c of the network is ``labels[c - 1]``.
    network, preprocessing : mapping
        Arguments of `mper.nets.network.NetConfig` and `mper.dataloading.preprocessing.Preprocessing`.
    window : (int, int, int)
        Tile size along (k, j, i) in working voxels for sliding-window prediction; the size of the
        training patches, k = 1 for 2-D networks.
    largest_component : bool
        Whether only the largest component of each label is kept.
    mirror_axes : tuple of int
        Array axes along which the model saw mirrored scans; others must not be mirrored at test time.
    always_mirrored : bool
        Whether predictions are averaged over mirrored copies without being asked for (``tta``).
    about : mapping
        Provenance for people: modality, intended_use, limits, data, licence, citation, training
        (method, recipe, seed, budget, steps, hardware, date, command), quality (cases, mean, per case), references
        (names of the cases whose labelled voxels the bundle keeps, see `mper.models.references`).
    """

    name: str
    version: str
    title: str
    labels: tuple[Label, ...]
    network: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    window: tuple[int, int, int]
    largest_component: bool = True
    mirror_axes: tuple[int, ...] = ()
    always_mirrored: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))
        if self.network.get("classes") != len(self.labels) + 1:
            raise ValueError(
                f"the card names {len(self.labels)} labels, the network has {self.network.get('classes')} classes; "
                "there must be one class more than labels"
            )

    def to_json(self, weights: Mapping[str, str]) -> str:
        """The text of card.json; `weights` tells file, sha256 and storage."""
        return (
            json.dumps({"format": FORMAT, **asdict(self), "weights": dict(weights)}, indent=1, ensure_ascii=False)
            + "\n"
        )


@dataclass(frozen=True)
class StoredBundle:
    """A bundle on disk: its path (folder or zip), its card and where its weights are."""

    path: Path
    card: Card
    weights_file: str
    sha256: str
    storage: str

    def weights(self) -> bytes:
        """The weights file, checked against the card.

        Raises
        ------
        ValueError
            If it is missing or is not the file that the card describes.
        """
        data = _member(self.path, self.weights_file)
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{self.path}: {self.weights_file} is not the file that the model's card describes "
                f"(sha256 {found[:12]}..., expected {self.sha256[:12]}...); get the model again"
            )
        return data


def read_bundle(path: Path) -> StoredBundle:
    """Read the card of a bundle; the weights are not touched.

    Raises
    ------
    FileNotFoundError
        If there is no such bundle.
    ValueError
        If its card is damaged, of another format version or incomplete.
    """
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; `mper models` lists the models that come with mper")
    try:
        stored = json.loads(_member(path, CARD).decode("utf-8"))
        found = stored.pop("format", None)
    except (AttributeError, TypeError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise _damaged(path, error) from error
    if found != FORMAT:
        raise ValueError(
            f"{path} is a model of format {found!r}, this mper reads format {FORMAT}; "
            "update mper, or train the model again"
        )
    try:
        weights = stored.pop("weights")
        stored["labels"] = tuple(label_from_dict(entry) for entry in stored["labels"])
        stored["window"] = tuple(stored["window"])
        stored["mirror_axes"] = tuple(stored["mirror_axes"])
        card = Card(**stored)
        bundle = StoredBundle(path, card, str(weights["file"]), str(weights["sha256"]), str(weights["storage"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error
    if bundle.storage not in STORAGES or Path(bundle.weights_file).name != bundle.weights_file:
        raise ValueError(f"{path}: the model's {CARD} is damaged (weights entry); get the model again")
    return bundle


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: the model's {CARD} is damaged ({type(error).__name__}: {error}); get the model again")


def _member(path: Path, name: str) -> bytes:
    """One file of a bundle that is a folder or a zip."""
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            # Whoever zips a bundle may well zip its folder.
            inside = next((n for n in archive.namelist() if n in (name, f"{n.split('/')[0]}/{name}")), name)
            return archive.read(inside)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a model: it should be a folder or zip that holds {CARD} and {WEIGHTS}, "
            f"and {name} is missing or unreadable"
        ) from error
