"""What the command line shows: figures on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from mper.progress import Progress
from mper.utils.text import duration

_LINE_EVERY_S = 30.0  # where stderr is a file: a line now and then instead of a bar


def print_result(text: str = "") -> None:
    """One line of the result, on stdout."""
    print(text, flush=True)


def print_note(text: str) -> None:
    """One note on stderr: what was decided or noticed, while the work goes on."""
    print_message(f"mper: note: {text}")


def print_error(text: str) -> None:
    """One error on stderr."""
    print_message(f"mper: error: {text}")


def print_message(text: str) -> None:
    """One line on stderr; a progress bar on the screen stays intact."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, in plain ASCII so that no console's encoding can spoil it."""
    print(json.dumps(value, indent=2, allow_nan=False), flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned: the first to the left, figures to the right."""
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print_result("  ".join(cells).rstrip())


_FIRST_ESTIMATE_S = 2.0  # of work, before which the rest is not estimated


class Bar:
    """A progress bar on stderr, which takes `Progress`; where stderr is no screen, a line now and then.

    Use it as a context; the bar itself is the report: ``with Bar() as report: work(report=report)``.
    """

    def __init__(self, shown: bool = True):
        self._shown = shown
        self._tqdm: Any = None
        self._last_line = time.monotonic()
        self._begin: tuple[float, float] | None = None  # time and fraction that the rest is expected from
        self._fraction = 0.0

    def __enter__(self) -> Bar:
        return self

    def __call__(self, progress: Progress) -> None:
        if not self._shown:
            return
        if progress.eta_s is None and progress.fraction is not None:
            progress = replace(progress, eta_s=self._expected(progress.fraction))
        if not sys.stderr.isatty():
            if time.monotonic() - self._last_line >= _LINE_EVERY_S:
                self._last_line = time.monotonic()
                print_message(_sentence(progress))
            return
        if self._tqdm is None:
            from tqdm import tqdm

            style = "{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}"
            self._tqdm = tqdm(total=1.0, file=sys.stderr, bar_format=style, leave=False, dynamic_ncols=True)
        self._tqdm.set_description_str(progress.message, refresh=False)
        self._tqdm.set_postfix_str(_figures(progress), refresh=False)
        if progress.fraction is not None:
            self._tqdm.n = min(max(progress.fraction, 0.0), 1.0)
        self._tqdm.refresh()

    def _expected(self, fraction: float) -> float | None:
        """Seconds until the work is done, by how long its part so far took.

        What is resumed begins in the middle; where the fraction falls another kind of work has begun.
        """
        now = time.monotonic()
        if self._begin is None or fraction < self._fraction:
            self._begin = now, fraction
        self._fraction = fraction
        gone, done = now - self._begin[0], fraction - self._begin[1]
        return gone * (1 - fraction) / done if gone > _FIRST_ESTIMATE_S and done > 0 and fraction < 1 else None

    def print_result(self, text: str) -> None:
        """One line of the result on stdout while the bar is shown; the two do not mix on one screen."""
        if self._tqdm is not None:
            self._tqdm.clear()
        print_result(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


def _figures(progress: Progress) -> str:
    words = [f"{duration(progress.eta_s)} left"] if progress.eta_s is not None else []
    words += [
        f"{name} {value:.0f}" if value == round(value) else f"{name} {value:.4g}"
        for name, value in progress.values.items()
    ]
    return ", ".join(words)


def _sentence(progress: Progress) -> str:
    share = "" if progress.fraction is None else f" {100 * progress.fraction:.0f}%"
    figures = _figures(progress)
    return f"{progress.message}{share}" + (f" ({figures})" if figures else "")
