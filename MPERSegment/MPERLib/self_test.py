"""What the self tests of both modules put back: settings of the user, and the sections and choices of a panel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ctk
import qt


@contextmanager
def restored(keys: Sequence[str], ui: Any = None) -> Iterator[None]:
    """Begin the block without these settings, as a new user does, and put them and the open sections back after it.

    Parameters
    ----------
    keys : sequence of str
        Of the settings; one that ends with a slash stands for all that begin with it.
    ui : namespace or None
        The widgets of the panel by name.
    """
    settings = qt.QSettings()
    before = {key: settings.value(key) for key in _all(settings, keys)}
    sections = [each for each in vars(ui).values() if isinstance(each, ctk.ctkCollapsibleButton)] if ui else []
    collapsed = [section.collapsed for section in sections]
    for key in before:
        settings.remove(key)
    try:
        yield
    finally:
        for key in {*before, *_all(settings, keys)}:
            value = before.get(key)
            settings.remove(key) if value is None else settings.setValue(key, value)
        for section, was in zip(sections, collapsed, strict=True):
            section.collapsed = was


def _all(settings: Any, keys: Sequence[str]) -> list[str]:
    known = [str(key) for key in settings.allKeys()]
    groups = tuple(key for key in keys if key.endswith("/"))
    return [*(key for key in keys if key not in groups), *(key for key in known if key.startswith(groups or "\0"))]
