"""Lines for people that a program can also say in the words of its own users: with a code and values.

A `Coded` line is a string, so that whoever shows it needs to know nothing. As JSON it loses its code; what is written
or sent therefore has ``line_codes`` beside its lines, see `line_codes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


class Coded(str):
    """A line with what it says as a code, and the values that words for it need.

    Parameters
    ----------
    line : str
    code : str
    **values : str, int or float
        Numpy's numbers become Python's, for JSON. A text may have a code of its own, such as the reason within a
        line.
    """

    code: str
    values: dict[str, str | int | float]

    def __new__(cls, line: str, code: str, /, **values: str | int | float) -> Coded:
        made = super().__new__(cls, line)
        made.code = code
        made.values = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str, str], dict[str, str | int | float]]:
        return (str(self), self.code), self.values  # for copies, and for other processes


def joined(lines: Iterable[str], separator: str) -> Coded:
    """Several lines as one."""
    parts = list(lines)
    values = {f"part{n}": line for n, line in enumerate(parts, 1)}
    return Coded(separator.join(parts), "joined", separator=separator, **values)


def codes_of(lines: tuple[str, ...]) -> list[dict[str, object]]:
    """The code and the values of each line; an empty code where it has none."""
    return [
        {"code": line.code, "values": line.values} if isinstance(line, Coded) else {"code": "", "values": {}}
        for line in lines
    ]


def line_codes(*items: object) -> dict[str, dict[str, Any]]:
    """Code and values by the line, of all lines with a code in strings, lists and mappings, and in their values."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        if isinstance(item, Coded):
            values = {name: str(value) if isinstance(value, str) else value for name, value in item.values.items()}
            found |= {**line_codes(*item.values.values()), str(item): {"code": item.code, "values": values}}
        elif isinstance(item, Mapping):
            found |= line_codes(*item.values())
        elif isinstance(item, (list, tuple)):
            found |= line_codes(*item)
    return found


def with_codes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry for JSON, with ``line_codes`` where a line in it has a code."""
    codes = line_codes(entry)
    return {**entry, "line_codes": {**entry.get("line_codes", {}), **codes}} if codes else dict(entry)


def decoded(line: str, codes: Mapping[str, Any]) -> str:
    """A line that was stored, with its code among the `line_codes` that were stored with it."""
    coded = codes.get(line)
    if not isinstance(coded, Mapping) or not isinstance(coded.get("values"), Mapping):
        return line
    code, values = str(coded.get("code")), coded["values"].items()
    known = {name: decoded(value, codes) if isinstance(value, str) else value for name, value in values}
    return Coded(line, code, **known)


def line_of(error: BaseException) -> str:
    """The message of an error, with its code where it was raised with one: ``ValueError(Coded(...))``."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, Coded) else str(error)


def changed(line: str, change: Callable[[str], str]) -> str:
    """A line after `change`, which is made to the texts among its values, too."""
    if not isinstance(line, Coded):
        return change(line)
    values = {name: changed(value, change) if isinstance(value, str) else value for name, value in line.values.items()}
    return Coded(change(line), line.code, **values)


def without_folders(text: str, folders: Mapping[Path, str]) -> str:
    """`text` in which `folders` are written by their names, the longest path first."""

    def named(part: str) -> str:
        for folder, name in sorted(folders.items(), key=lambda item: -len(str(item[0]))):
            part = part.replace(str(folder), name)
        return part

    return changed(text, named)
