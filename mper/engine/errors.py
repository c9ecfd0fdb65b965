"""Requests that are refused, and how every error becomes an HTTP status and one line.

What our own code raises for people is passed on; a fault of the program goes to the log (types and positions only) and
the answer says where that is. Folders of this machine never leave it: roots appear by their names.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mper.utils.coded import Coded, changed, line_of, without_folders
from mper.utils.errors import explain, one_line, raised_by_us


class RequestError(Exception):
    """A request that is refused; the text says what came, what was expected, what to do.

    Parameters
    ----------
    line : str
        The text.
    code : str
        What was refused, for programs that say it in the words of their users; "" where only the text says it.
    **values
        What the words of the code need, such as names and numbers.

    Attributes
    ----------
    status : int
        Of the answer, one for each class.
    headers : mapping
        Of the answer.
    """

    status: ClassVar[int] = 400
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, line: str, code: str = "", /, **values: str | int | float):
        super().__init__(Coded(line, code, **values) if code else line)


class InvalidRequest(RequestError):
    """It is malformed, or does not fit what it names."""

    status = 422


class Unauthorized(RequestError):
    """The token is missing or wrong."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    """It is not allowed to this client, or leads out of a root."""

    status = 403


class NotFound(RequestError):
    """What it names does not exist, or belongs to another client."""

    status = 404


class UploadStalled(RequestError):
    """The body did not come in time."""

    status = 408


class Conflict(RequestError):
    """It cannot be done now: the state of something does not allow it, or there is no room."""

    status = 409


class TooLarge(RequestError):
    """The body is larger than allowed.

    Parameters
    ----------
    found, limit : int
        Bytes.
    """

    status = 413

    def __init__(self, found: int, limit: int):
        super().__init__(
            f"the body has {found} bytes or more, at most {limit} are taken here; "
            "send less (a smaller region, fewer strokes)",
            "too-large",
            megabytes=limit // 1_000_000,
        )


class TooManyFailures(RequestError):
    """Too many wrong tokens came from this address."""

    status = 429
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


_STATUS_OF_ERRNO = {
    errno.ENAMETOOLONG: InvalidRequest.status,
    errno.ENOSPC: Conflict.status,
    getattr(errno, "EDQUOT", -1): Conflict.status,  # Windows has none
}
_STATUS_OF: tuple[tuple[type[BaseException], int], ...] = (
    (FileNotFoundError, NotFound.status),
    (FileExistsError, Conflict.status),
    (PermissionError, Forbidden.status),
    (TimeoutError, Conflict.status),
)


def status_and_line(error: BaseException, folders: Mapping[Path, str]) -> tuple[int, str]:
    """The HTTP status of an error, and its line in which `folders` are written by their names."""
    line = explained(error, folders)
    if isinstance(error, RequestError):
        return error.status, line
    if isinstance(error, OSError) and error.errno in _STATUS_OF_ERRNO:
        return _STATUS_OF_ERRNO[error.errno], line
    for kind, status in _STATUS_OF:
        if isinstance(error, kind):
            return status, line
    return (422 if isinstance(error, ValueError) and raised_by_us(error) else 500), line


def code_and_values(line: str) -> dict[str, object]:
    """What an error's answer holds besides its line: nothing, or the line's code and values."""
    return {"code": line.code, "values": line.values} if isinstance(line, Coded) else {}


def explained(error: BaseException, folders: Mapping[Path, str]) -> str:
    """One line for a person, in which `folders` are written by their names."""
    line = changed(line_of(error), one_line) if isinstance(error, RequestError) else explain(error)
    return without_folders(line, folders)
