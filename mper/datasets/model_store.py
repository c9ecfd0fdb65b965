"""The models of a dataset: models/<name>/<version>, of which the files `current` and `previous` name two."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from mper.models.card import CARD
from mper.utils.cleanup import remove_unfinished
from mper.utils.files import (
    check_name,
    copy_folder,
    existing_name,
    read_json,
    rename_folder,
    temporary_sibling,
    write_json,
    write_text,
)


class ModelStore:
    """The numbered versions of models below a folder; a version never changes.

    Parameters
    ----------
    path : Path
        The folder that holds ``models``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name

    def publish_model(self, name: str, bundle: Path, *, make_current: bool = False) -> Path:
        """Copy a bundle's folder to the next version of a model, and write name and version into the copy's card.

        The first version becomes the current one.

        Raises
        ------
        FileNotFoundError
            If the bundle is not a folder.
        """
        if not bundle.is_dir():
            raise FileNotFoundError(f"no model folder at {bundle}")
        folder = self._model_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished([folder])
        unfinished = temporary_sibling(folder / "version")
        try:
            copy_folder(bundle, unfinished)
            version = max(_versions(folder), default=0) + 1
            _name_card(unfinished, name, version)
            while not rename_folder(unfinished, folder / str(version)):
                version += 1
                _name_card(unfinished, name, version)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if make_current or version == 1:
            self.use_model(name, version)
        return folder / str(version)

    def use_model(self, name: str, version: int) -> None:
        """Make a version the current one of its model; the one before is remembered."""
        folder = self.model(name, version).parent
        with contextlib.suppress(ValueError):  # a damaged one is replaced
            if (folder / "current").exists() and (before := self.current_version(name)) != version:
                write_text(folder / "previous", f"{before}\n")
        write_text(folder / "current", f"{version}\n")

    def model(self, name: str, version: int | None = None) -> Path:
        """The folder of a version of a model, the current one by default.

        Raises
        ------
        ValueError
            If there is no such model or version.
        """
        versions = self.model_versions(name)
        if version is None:
            version = self.current_version(name)
        if version not in versions:
            known = ", ".join(str(v) for v in versions)
            raise ValueError(f"model {name!r} of dataset {self.name!r} has no version {version}; it has {known}")
        return self._model_folder(name) / str(version)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models, sorted."""
        folder = self.path / "models"
        if not folder.is_dir():
            return ()
        return tuple(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and _versions(p)))

    def _model_folder(self, name: str) -> Path:
        folder = self.path / "models"
        return folder / existing_name(folder, check_name(name, "model"))

    def model_versions(self, name: str) -> list[int]:
        """The versions of a model, oldest first.

        Raises
        ------
        ValueError
            If there is no such model.
        """
        versions = _versions(self._model_folder(name))
        if not versions:
            known = ", ".join(self.models) or "none"
            raise ValueError(f"dataset {self.name!r} has no model {name!r}; its models: {known}")
        return versions

    def current_version(self, name: str) -> int:
        """The version of a model that is in use."""
        path = self._model_folder(name) / "current"
        try:
            return int(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # killed between the first version and this file
            return self.model_versions(name)[0]
        except ValueError as error:
            raise ValueError(f"{path} does not hold the number of a version; write one into it") from error

    def previous_version(self, name: str) -> int | None:
        """The version that was in use before the current one; None where there was none."""
        try:
            version = int((self._model_folder(name) / "previous").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return version if version in self.model_versions(name) else None


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal())


def _name_card(bundle: Path, name: str, version: int) -> None:
    if (bundle / CARD).is_file():
        write_json(bundle / CARD, {**read_json(bundle / CARD), "name": name, "version": str(version)})
