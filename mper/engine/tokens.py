"""Clients and their tokens: from a file, or one from the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mper.engine.settings import Client
from mper.utils.files import read_written

SHORTEST_TOKEN = 16


def read_tokens(path: Path) -> tuple[Client, ...]:
    """Clients of a token file: a name and a token a line; empty lines and those that begin with # are left out.

    Text in UTF-8, or in UTF-16 with its mark, which Windows' PowerShell writes.

    Raises
    ------
    ValueError
        If it is not text, a line is malformed, a token is short, or a name or token occurs twice.
    """
    clients: list[Client] = []
    for number, line in enumerate(read_written(path).splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ValueError(f"line {number} of {path} is not a name and a token, separated by a blank")
        name, token = words
        check_token(token, f"the token in line {number} of {path}")
        if any(name == client.name or token == client.token for client in clients):
            raise ValueError(
                f"line {number} of {path} has a name or token that an earlier line has; each needs its own"
            )
        clients.append(Client(name, token))
    if not clients:
        raise ValueError(f"{path} holds no token; write a name and a token in a line")
    return tuple(clients)


def check_token(token: str, what: str) -> str:
    """`token`, if it is long enough and can stand in an HTTP header."""
    if len(token) < SHORTEST_TOKEN or not all("!" <= c <= "~" for c in token):
        raise ValueError(
            f"{what} must be at least {SHORTEST_TOKEN} printable ASCII characters without blanks; "
            "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def readable_by_others(path: Path, what: str) -> str | None:
    """A line of warning where other users of this computer can read a file that holds a secret; else None.

    Windows keeps that in access lists, which Python cannot read: there the answer is None.
    """
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return f"other users of this computer can read {what} {path}; make it private: chmod 600 {path}"
    return None
