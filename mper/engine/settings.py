"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MB = 2**20


@dataclass(frozen=True)
class Client:
    """Who may talk to the engine.

    name : in the log; token : the secret; local : whether it started the engine, and so owns this machine's files.
    """

    name: str
    token: str
    local: bool = False


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for.

    upload_bytes : of one array; json_bytes : of any other body; scans_bytes : of the scans of one client, on disk;
    predictions_bytes : of the predictions of all, in memory; waiting_jobs : not yet ended, of one client; ended_jobs :
    remembered, of one client; keep_s : an unused scan or prediction; stall_s : an upload may pause; alive_s :
    between two signs of life of a stream; header_s : until a request's header has come, TLS included; connections,
    connections_per_address : open at a time.
    """

    upload_bytes: int = 2048 * _MB
    json_bytes: int = 4 * _MB
    scans_bytes: int = 8192 * _MB
    predictions_bytes: int = 1024 * _MB
    waiting_jobs: int = 64
    ended_jobs: int = 200
    keep_s: float = 12 * 3600.0
    stall_s: float = 60.0
    alive_s: float = 5.0
    header_s: float = 15.0
    connections: int = 256
    connections_per_address: int = 64


@dataclass(frozen=True)
class Settings:
    """What an engine is started with.

    clients : at least one; roots : folders that hold datasets; loopback : whether it is reached from this machine only
    (then requests must name it so); spool : an empty folder for uploads, of this engine alone.
    """

    clients: tuple[Client, ...]
    spool: Path
    roots: tuple[Path, ...] = ()
    loopback: bool = True
    limits: Limits = Limits()
