"""The folders that the engine may touch, and the only way from a name that a client sends to a path.

A dataset's id is ``ROOT/relative/path``; in routes each ``/`` is written as ``~``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mper.datasets.dataset import Dataset
from mper.datasets.index import DATASET
from mper.engine.errors import Forbidden, NotFound
from mper.utils.coded import line_of
from mper.utils.files import check_name, existing_name, nfc

_DEEPEST = 4  # folders below a root in which datasets are looked for


class Roots:
    """Root folders by their names; others may be added while the engine runs.

    Each is named after its folder; of equal names the later ones are numbered.

    Raises
    ------
    FileNotFoundError
        If one of `paths` is no folder.
    """

    def __init__(self, paths: Sequence[Path] = ()):
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()
        for path in paths:
            self.add(path)

    @property
    def folders(self) -> dict[str, Path]:
        """Resolved paths by name."""
        return dict(self._folders)

    def add(self, path: Path) -> str:
        """The name of a root, which is new or known already.

        Raises
        ------
        FileNotFoundError
            If `path` is no folder.
        """
        if not path.is_dir():
            raise FileNotFoundError(f"the root {path} is no folder; make it first, or give another")
        whole = path.resolve()
        with self._lock:
            for name, known in self._folders.items():
                if known == whole:
                    return name
            base = whole.name.replace("~", "-") or "root"
            name, n = base, 1
            while name in self._folders:
                n += 1
                name = f"{base}-{n}"
            self._folders = {**self._folders, name: whole}  # whoever goes through the old ones is not disturbed
            return name

    def inside(self, root: str, relative: str) -> Path:
        """The path `relative` (parts separated by ``/``) below a root; it need not exist.

        Raises
        ------
        NotFound, Forbidden
            If there is no such root; if the path leaves it, by its name or by a link.
        """
        home = next((folder for name, folder in self._folders.items() if nfc(name) == nfc(root)), None)
        if home is None:
            known = ", ".join(self._folders) or "none"
            raise NotFound(f"there is no root {root!r} here; the engine was started with: {known}")
        path = home
        try:
            for part in relative.split("/") if relative else ():
                path /= existing_name(path, check_name(part, "folder"))
        except ValueError as error:
            raise Forbidden(line_of(error)) from error
        if not path.resolve().is_relative_to(home):
            raise Forbidden(f"{relative!r} leads out of the root {root!r}; name a folder inside it")
        return path

    def dataset(self, dataset_id: str) -> Path:
        """The folder of a dataset.

        Raises
        ------
        NotFound
            If there is none of that id.
        """
        root, _, relative = dataset_id.replace("~", "/").partition("/")
        try:
            path = self.inside(root, relative)
        except (Forbidden, NotFound) as error:
            line = f"there is no dataset {dataset_id!r} here ({error})"
            raise NotFound(line, "no-dataset", dataset=dataset_id) from error
        if not (path / DATASET).is_file():
            line = f"there is no dataset {dataset_id!r} here: its folder was moved or deleted"
            raise NotFound(line, "no-dataset", dataset=dataset_id)
        return path

    def datasets(self) -> Iterator[tuple[str, Path]]:
        """Ids and folders of all that holds a dataset.json, by id; some may be foreign or damaged."""
        for name, home in sorted(self._folders.items()):
            yield from _below(name, home, _DEEPEST)


def _below(dataset_id: str, folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    if os.path.isfile(folder / DATASET):  # noqa: PTH113 (raises in a folder that may not be searched)
        yield dataset_id, folder
        with contextlib.suppress(OSError, ValueError):  # a foreign or damaged one may have others below it
            Dataset.open(folder)
            return
    if depth == 0:
        return
    try:
        inner = sorted(p for p in folder.iterdir() if not p.is_symlink() and "~" not in p.name and p.name[:1] != ".")
    except OSError:  # a folder that may not be read holds nothing for us
        return
    for path in inner:
        if os.path.isdir(path):  # noqa: PTH112 (as above)
            yield from _below(f"{dataset_id}/{path.name}", path, depth - 1)
