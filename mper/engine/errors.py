"""What is refused, and how every error becomes a status and one line.

What our own code raises for people is passed on; a fault of the program goes to the log (types and positions only) and
the client is told where that is. Folders of this machine never leave it: roots appear by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mper.utils.errors import explain, raised_by_us

_STATUS_OF: tuple[tuple[type[BaseException], int], ...] = (
    (FileNotFoundError, 404),
    (FileExistsError, 409),
    (PermissionError, 403),
    (TimeoutError, 409),
)


class Refused(Exception):
    """A request that is not granted.

    Parameters
    ----------
    status : int
        401 no or wrong token, 403 not allowed, 404 unknown, 409 not now, 413 too large, 422 malformed.
    line : str
        What came, what was expected, what to do.
    headers : mapping
        Of the answer.
    """

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None):
        super().__init__(line)
        self.status = status
        self.headers = dict(headers or {})


def status_and_line(error: BaseException, folders: Mapping[Path, str]) -> tuple[int, str]:
    """The HTTP status of an error, and its line in which `folders` are written by their names."""
    line = explained(error, folders)
    if isinstance(error, Refused):
        return error.status, line
    for kind, status in _STATUS_OF:
        if isinstance(error, kind):
            return status, line
    return (422 if isinstance(error, ValueError) and raised_by_us(error) else 500), line


def explained(error: BaseException, folders: Mapping[Path, str]) -> str:
    """One line for a person, in which `folders` are written by their names."""
    line = " ".join(str(error).split()) if isinstance(error, Refused) else explain(error)
    for folder, name in sorted(folders.items(), key=lambda item: -len(str(item[0]))):
        line = line.replace(str(folder), name)
    return line
