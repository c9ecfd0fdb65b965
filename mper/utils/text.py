"""Pieces of messages: lists that are cut, the first line of an error, a span of time."""

from __future__ import annotations

from collections.abc import Iterable


def shorten(names: Iterable[object], most: int = 3, separator: str = ", ") -> str:
    """The first of many names, and how many more there are: ``a, b, c and 4 more``."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return separator.join(shown[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, or the error's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason_of(error: BaseException) -> str:
    """What is wrong with a file's entries, from the error that reading them raised, without the error's name."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, (TypeError, AttributeError)):  # Python's words for values of another type
        return "its entries have another form than expected"
    if isinstance(error, UnicodeError):
        return "it is not text in UTF-8"
    return first_line(error)


def duration(seconds: float) -> str:
    """``4.2 s``, ``45 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def duration_option(seconds: float) -> str:
    """``8s``, ``20m``, ``1h30m``: as an option of a command takes it."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = ((hours, "h"), (minutes, "m"), (round(rest, 3), "s"))
    return "".join(f"{value:g}{unit}" for value, unit in parts if value) or "0s"


def short_number(value: float) -> str:
    """Three digits, or all before the point: ``0.125``, ``20.4``, ``5210``."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
