"""Model bundles with their weights: saving, strict loading, building the network.

Weights are safetensors; nothing is unpickled. Storage may be float32, float16, or int8 with one
float scale for each slice of a convolution's kernel along its first axis (biases, batch norm and
prototypes stay float32); loading always gives float32.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mper.dataloading.preprocessing import Preprocessing
from mper.models.calibration import Calibration
from mper.models.card import CALIBRATION, CARD, LOCALIZATION, STORAGES, WEIGHTS, Card, read_bundle
from mper.models.localization import Localization
from mper.models.references import References
from mper.nets.network import NetConfig, Network
from mper.utils.coded import Coded
from mper.utils.files import rename_folder, temporary_sibling
from mper.utils.text import first_line

_SCALE = ".scale"
_REFERENCES = "references."


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """All that is needed to predict.

    Parameters
    ----------
    card : Card
    state : mapping of str to tensor
        State of `mper.nets.network.Network`, prototypes included, float32 on the CPU.
    sha256 : str
        Of the weights file that it was read from; empty for a bundle that was never stored.
    references : References or None
        Labelled voxels that explain the model, of methods that compare with them. They are stored beside the
        weights; the names of their cases are in the card, ``about["references"]["cases"]``.
    localization : Localization or None
        How the model locates its structures in a wide field of view.
    calibration : Calibration or None
        How the expected Dice of a mask is made.

    Raises
    ------
    ValueError
        If the state is not exactly that of the network which the card describes.
    """

    card: Card
    state: Mapping[str, torch.Tensor]
    sha256: str = ""
    references: References | None = None
    localization: Localization | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        try:
            network, _ = self.network, self.preprocessing
            with torch.device("meta"):
                expected = Network(network).state_dict()
        except (KeyError, TypeError, IndexError, OverflowError, RuntimeError) as error:
            reason = first_line(error)
            raise ValueError(
                f"the card of model {self.card.name!r} does not describe a network and its preprocessing ({reason}); "
                "the model is damaged or of another version"
            ) from error
        wrong = [
            name
            for name in sorted(set(expected) | set(self.state))
            if name not in expected or name not in self.state or expected[name].shape != self.state[name].shape
        ]
        if wrong:
            raise ValueError(
                f"the weights do not fit the network of model {self.card.name!r}: {len(wrong)} tensors differ, "
                f"first {wrong[0]!r}; the model is damaged or of another version"
            )
        if self.references is not None and self.references.vectors.shape[1] != network.filters:
            raise ValueError(
                f"the labelled voxels of model {self.card.name!r} have {self.references.vectors.shape[1]} channels, "
                f"its network {network.filters}; the model is damaged"
            )

    @property
    def network(self) -> NetConfig:
        return NetConfig(**{**self.card.network, "dropout": tuple(self.card.network["dropout"])})

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(**self.card.preprocessing)

    def build(self) -> Network:
        """The network with its weights, in eval mode, on the CPU."""
        network = Network(self.network)
        network.load_state_dict(dict(self.state))
        return network.eval()

    @classmethod
    def load(cls, path: Path) -> ModelBundle:
        """Read a bundle strictly.

        Raises
        ------
        FileNotFoundError, ValueError
            If it is missing, damaged, tampered with, or of another version: one line each.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        stored = read_bundle(path)
        data = stored.weights()
        try:
            state = _unpack(load(data))
            kept = {name: state.pop(name) for name in list(state) if name.startswith(_REFERENCES)}
            cases = stored.card.about["references"]["cases"] if kept else ()
            tensors = {name.removeprefix(_REFERENCES): value for name, value in kept.items()}
            wrong = [name for name, value in (state | kept).items() if not value.isfinite().all()]
            if wrong:
                raise ValueError(
                    Coded(
                        f"{path}: the weights of the model are not finite ({wrong[0]!r} holds NaN or infinity); "
                        "train it again, or get the model again",
                        "model-damaged",
                        path=str(path),
                    )
                )
            localization = None
            if stored.card.localization is not None:
                found = _unpack(load(stored.addition("localization")))
                if not all(value.isfinite().all() for value in found.values()):
                    raise ValueError(f"{path}: the weights of the localisation are not finite; get the model again")
                localization = Localization.of(found, stored.card.localization)
            calibration = None
            if stored.card.calibration is not None:
                calibration = Calibration.from_json(stored.addition("calibration").decode("utf-8"))
            references = References.of(tensors, cases) if kept else None
            return cls(stored.card, state, stored.sha256, references, localization, calibration)
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                Coded(
                    f"{path}: the model cannot be read ({error}); get the model again", "model-damaged", path=str(path)
                )
            ) from error

    def save(self, path: Path, storage: str = "float16") -> Path:
        """Write the bundle as a folder, beside and then renamed.

        Raises
        ------
        FileExistsError
            If `path` is there: a model is never overwritten.
        """
        from safetensors.torch import save

        if storage not in STORAGES:
            raise ValueError(f"unknown storage {storage!r}; known are {', '.join(STORAGES)}")
        if path.exists():
            raise FileExistsError(f"{path} is already there; a model is never overwritten, choose another place")
        packed = _pack(self.state, storage)
        if self.references is not None:
            packed |= {_REFERENCES + name: value for name, value in self.references.tensors().items()}
        data = save(packed)
        weights = {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "storage": storage}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = temporary_sibling(path)
        unfinished.mkdir()
        try:
            (unfinished / WEIGHTS).write_bytes(data)
            card = replace(self.card, localization=None, calibration=None)
            if self.localization is not None:
                located = save(_pack(self.localization.state, "float16"))
                (unfinished / LOCALIZATION).write_bytes(located)
                described = {"file": LOCALIZATION, "sha256": hashlib.sha256(located).hexdigest()}
                card = replace(card, localization={**described, **self.localization.described()})
            if self.calibration is not None:
                text = self.calibration.to_json().encode("utf-8")
                (unfinished / CALIBRATION).write_bytes(text)
                card = replace(card, calibration={"file": CALIBRATION, "sha256": hashlib.sha256(text).hexdigest()})
            (unfinished / CARD).write_text(card.to_json(weights), encoding="utf-8")
            if not rename_folder(unfinished, path):
                raise FileExistsError(f"{path} was made by another program meanwhile; choose another place")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return path


def _pack(state: Mapping[str, torch.Tensor], storage: str) -> dict[str, torch.Tensor]:
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        if value.dim() < 4 or storage == "float32":  # convolution kernels have 4 or 5 axes
            packed[name] = value
        elif storage == "float16":
            packed[name] = value.half()
        else:
            scale = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True).clamp(min=1e-12) / 127
            packed[name] = (value / scale).round().to(torch.int8)
            packed[name + _SCALE] = scale.flatten()
    return packed


def _unpack(packed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for name, value in packed.items():
        scaled = name.removesuffix(_SCALE)
        if scaled != name and scaled in packed:  # a network may have a parameter of that name, too
            continue
        if value.dtype == torch.int8:
            value = value.float() * packed[name + _SCALE].reshape(-1, *[1] * (value.dim() - 1))
        state[name] = value.float() if value.is_floating_point() else value
    return state
