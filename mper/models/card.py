"""The card of a model bundle: everything about a model but its weights, readable without torch.

A bundle is a folder, or one zip of its files:

    card.json                   this
    weights.safetensors         named in the card with its SHA-256
    localization.safetensors    the same, of models that locate their structures in a wide field of view
    calibration.json            the same, of models that know the Dice to expect of a mask

A bundle of the first two files is of format 1, as ever; the others make it one of format 2.
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
from mper.utils.coded import Coded
from mper.utils.text import reason_of

CARD = "card.json"
WEIGHTS = "weights.safetensors"
LOCALIZATION = "localization.safetensors"
CALIBRATION = "calibration.json"
ADDITIONS = ("localization", "calibration")  # files beyond the first two, by their entry in the card
FORMATS = (1, 2)
STORAGES = ("float32", "float16", "int8")
_LARGEST_WINDOW = 4096  # voxels of one side
_LARGEST = {CARD: 1 << 24}  # bytes of a file; of all others:
_LARGEST_WEIGHTS = 1 << 33
_MAX_RATIO, _SMALL = 100, 1 << 26  # of what is zipped, beyond so many bytes: weights hardly shrink


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
        (method, recipe, seed, budget, steps, hardware, date, command; trained_on: checksums of the scans, see
        `mper.training.trained_scans`), quality (cases, mean, per case), references
        (names of the cases whose labelled voxels the bundle keeps, see `mper.models.references`).
    localization : mapping or None
        The file of the localisation, its SHA-256, and what `mper.models.localization.Localization.described` says.
    calibration : mapping or None
        The file of the calibration and its SHA-256.
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
    localization: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels))
        for name in ("name", "version", "title"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"the card's {name} must be text, got {getattr(self, name)!r:.40}")
        for name in ("largest_component", "always_mirrored"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"the card's {name} must be true or false, got {getattr(self, name)!r:.40}")
        optional = [name for name in ADDITIONS if getattr(self, name) is not None]
        for name in ("network", "preprocessing", "about", *optional):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"the card's {name} must be an object, got {getattr(self, name)!r:.40}")
        if len(self.window) != 3 or not all(isinstance(n, int) and 1 <= n <= _LARGEST_WINDOW for n in self.window):
            raise ValueError(f"the card's window must be three sizes in 1..{_LARGEST_WINDOW}, got {self.window!r:.60}")
        if not set(self.mirror_axes) <= {0, 1, 2} or len(set(self.mirror_axes)) < len(self.mirror_axes):
            raise ValueError(f"the card's mirror axes must be of 0, 1 and 2, got {self.mirror_axes!r:.40}")
        if self.network.get("classes") != len(self.labels) + 1:
            raise ValueError(
                f"the card names {len(self.labels)} labels, the network has {self.network.get('classes')} classes; "
                "there must be one class more than labels"
            )

    @property
    def localizes(self) -> bool:
        """Whether it is the card of a localiser of version 0.1, which works for other models."""
        return "margin_mm" in self.about

    def to_json(self, weights: Mapping[str, str]) -> str:
        """The text of card.json; `weights` tells file, sha256 and storage."""
        content = asdict(self)
        missing = [name for name in ADDITIONS if content[name] is None]
        for name in missing:
            del content[name]
        stored = {"format": FORMATS[len(missing) < len(ADDITIONS)], **content, "weights": dict(weights)}
        return json.dumps(stored, indent=1, ensure_ascii=False) + "\n"


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
        return self._checked(self.weights_file, self.sha256)

    def addition(self, name: str) -> bytes:
        """The file of an addition (`ADDITIONS`) that the card describes, checked against it.

        Raises
        ------
        ValueError
            If it is missing or is not the file that the card describes.
        """
        described = getattr(self.card, name) or {}
        return self._checked(str(described.get("file", "")), str(described.get("sha256", "")))

    def _checked(self, name: str, sha256: str) -> bytes:
        data = _member(self.path, name)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ValueError(
                Coded(
                    f"{self.path}: {name} is not the file that the model's card describes "
                    f"(sha256 {found[:12]}..., expected {sha256[:12]}...); get the model again",
                    "model-damaged",
                    path=str(self.path),
                )
            )
        return data


def read_bundle(path: Path) -> StoredBundle:
    """Read the card of a bundle; the weights are not touched.

    Raises
    ------
    FileNotFoundError
        If there is no such bundle.
    ValueError
        If it is no model, or its card is damaged, of another format version or incomplete.
    """
    if not path.exists():
        raise FileNotFoundError(
            Coded(
                f"no model at {path}; `mper models` lists the models that come with mper",
                "model-missing",
                path=str(path),
            )
        )
    text = _member(path, CARD)
    try:
        stored = json.loads(text.decode("utf-8"))
        found = stored.pop("format", None)
    except (AttributeError, TypeError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise _damaged(path, error) from error
    if found not in FORMATS:
        raise ValueError(
            Coded(
                f"{path} is a model of format {found!r}, this mper reads formats {FORMATS[0]} to {FORMATS[-1]}; "
                "update mper, or train the model again",
                "model-of-another-version",
                path=str(path),
            )
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
    files = [bundle.weights_file]
    for name in ADDITIONS:
        entry = getattr(card, name)
        if entry is not None:
            if not {"file", "sha256"} <= set(entry):
                raise _damaged(path, ValueError(f"the {name} entry is incomplete"))
            files.append(str(entry["file"]))
    if bundle.storage not in STORAGES or any(Path(name).name != name for name in files):
        raise ValueError(f"{path}: the model's {CARD} is damaged (names of its files); get the model again")
    return bundle


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        Coded(
            f"{path}: the model's {CARD} is damaged ({reason_of(error)}); get the model again",
            "model-damaged",
            path=str(path),
        )
    )


def _member(path: Path, name: str) -> bytes:
    """One file of a bundle that is a folder or a zip; nothing is unpacked before its size is checked."""
    limit = _LARGEST.get(name, _LARGEST_WEIGHTS)
    try:
        if path.is_dir():
            _check_size(path, name, (path / name).stat().st_size, limit)
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            # Whoever zips a bundle may well zip its folder.
            inside = next((n for n in archive.namelist() if n in (name, f"{n.split('/')[0]}/{name}")), name)
            entry = archive.getinfo(inside)
            _check_size(path, name, entry.file_size, min(limit, max(_SMALL, _MAX_RATIO * entry.compress_size)))
            return archive.read(entry)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        line = (_other_folder(path) if name == CARD else None) or (
            f"{path} is not a model: it should be a folder or zip that holds {CARD} and {WEIGHTS}, "
            f"and {name} is missing or unreadable"
        )
        raise ValueError(Coded(line, "not-a-model", path=str(path))) from error


def _other_folder(path: Path) -> str | None:
    """What to give in place of a folder that is a dataset, its models or a training run; None for any other."""
    if not path.is_dir():
        return None
    if (path / "dataset.json").is_file() or next(path.glob("shard-*-of-*.h5"), None):
        published = sorted(current.parent for current in path.glob("models/*/current"))
        advice = f"give one of its models, such as {published[0]}" if published else "it has no models yet"
        return f"{path} is a dataset, not a model; {advice} (`mper models` lists those that come with mper)"
    if published := sorted(current.parent for current in path.glob("*/current")):
        return f"{path} holds models; give one of them, such as {published[0]}"
    if (path / "config.json").is_file() and (path / "control.json").is_file():
        there = (path / "model" / CARD).is_file()
        advice = f"give its model: {path / 'model'}" if there else f"finish it first: mper train --resume {path}"
        return f"{path} is a training run, not a model; {advice}"
    return None


def _check_size(path: Path, name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{path}: {name} announces {size} bytes, more than the {limit} that a model may have there")
