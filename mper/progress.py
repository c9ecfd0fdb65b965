"""How long work reports its progress, and how it is cancelled.

Long work takes ``report: Report``, calls it at every natural beat, and lets `Cancelled`, which
the report may raise, through; it then leaves nothing half-written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Cancelled(Exception):
    """The user has cancelled the work."""


@dataclass(frozen=True)
class Progress:
    """One report of long work.

    Parameters
    ----------
    message : str
        What is being done, for people.
    fraction : float or None
        Share of the work that is done, in [0, 1]; None where it is unknown.
    eta_s : float or None
        Expected remaining time in seconds.
    values : mapping of str to float
        Figures of this report (losses, step, rate).
    """

    message: str
    fraction: float | None = None
    eta_s: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The report of work whose progress nobody follows."""


def part_of(report: Report, done: float, share: float, message: str) -> Report:
    """A report for one part of the work, from `done` of the whole to `done` + `share`.

    The part's own messages follow `message`. Its expected time is left out: it is that of the part alone.
    """

    def report_part(progress: Progress) -> None:
        fraction = None if progress.fraction is None else done + share * progress.fraction
        report(Progress(f"{message}: {progress.message}", fraction, None, progress.values))

    return report_part


Notify = Callable[[str], None]


def ignore_notice(_: str) -> None:
    """Where notes (one line each, the work goes on) go when nobody reads them."""
