"""How long work tells where it stands, and how it is stopped.

Long work takes ``report: Report``, calls it at every natural beat, and lets `Cancelled`, which
the report may raise, through; it then leaves nothing half-written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Cancelled(Exception):
    """The person who asked for the work no longer wants it."""


@dataclass(frozen=True)
class Progress:
    """One beat of long work.

    Parameters
    ----------
    message : str
        What is being done, in words for a person.
    fraction : float or None
        Share of the work that is done, in [0, 1]; None where it cannot be told.
    eta_s : float or None
        Expected seconds to the end.
    values : mapping of str to float
        Figures that go with this beat (losses, step, rate).
    """

    message: str
    fraction: float | None = None
    eta_s: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """A report that tells nobody."""


def part_of(report: Report, done: float, share: float, message: str) -> Report:
    """A report for one part of the work: it starts where `done` of the whole is done and makes up `share` of it.

    The part's own messages follow `message`; its expected time is that of the part alone and left out.
    """

    def tell(progress: Progress) -> None:
        fraction = None if progress.fraction is None else done + share * progress.fraction
        report(Progress(f"{message}: {progress.message}", fraction, None, progress.values))

    return tell


Notify = Callable[[str], None]


def ignore_notice(_: str) -> None:
    """Where notices go (one line each, work goes on) when nobody asked to hear them."""
