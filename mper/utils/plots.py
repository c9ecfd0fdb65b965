"""Figures by matplotlib, an optional package, written as PNG without a window."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mper.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


class MissingMatplotlib(ValueError):
    """Matplotlib is not installed; the message says how to get it."""


def new_figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels, whose parts are laid out so that they do not overlap.

    Raises
    ------
    MissingMatplotlib
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingMatplotlib('figures need matplotlib, which is not installed: pip install "mper[plots]"') from error
    return Figure((width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG; the file holds all of it, or what it held before."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomically(path, [stream.getvalue()])
