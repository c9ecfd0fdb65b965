"""Qt properties for the host's own widgets, in one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Property


def stored(kind: type | str, name: str, default: Any, changed: Callable[[Any], None] | None = None) -> Property:
    """A property that keeps its value in the Python object and calls `changed` with it after each new one."""
    key = f"_{name}"

    def read(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def write(self: Any, value: Any) -> None:
        if read(self) != value:
            self.__dict__[key] = value
            if changed:
                changed(self)

    return Property(kind, read, write)
