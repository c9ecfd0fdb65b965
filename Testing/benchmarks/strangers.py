"""What a client with a token waits for while strangers hold connections, guess tokens or flood the engine.

The engine is a process of its own on 127.0.0.1, the strangers are a second one, the client a third: nothing leaves this
computer, and numbers and times are bounded. `--tree DIR` runs the engine of another checkout, for a comparison.

    python Testing/benchmarks/strangers.py
    python Testing/benchmarks/strangers.py --tree ../before
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _timing import duration, keep, show

HOST = "127.0.0.1"
_ASK_EVERY_S = 0.05
_TIMEOUT_S = 10.0
_MOST_CONNECTIONS = 1100  # more than the file descriptors that a process has by default
_DEFAULT_FILES = 1024
_OPENED_PER_S = 500
_GUESSERS, _FLOODERS = 32, 32
_WRONG = b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong-token-wrong-token\r\n\r\n"
_NO_TOKEN = b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
STRANGERS = {
    "nobody": "no other connection",
    "silent": f"{_MOST_CONNECTIONS} connections that send nothing",
    "headers": f"{_MOST_CONNECTIONS} connections with half a header",
    "guessers": f"{_GUESSERS} guess tokens without a pause",
    "flood": f"{_FLOODERS} ask without a token without a pause",
}


# ---------------------------------------------------------------------- strangers, in their own process


async def _hold(port: int, say: bytes, end: float) -> None:
    """Hold many connections, and open those anew that are closed."""
    held: set[asyncio.StreamWriter] = set()

    async def one() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(HOST, port)
            held.add(writer)
            writer.write(say)
            with contextlib.suppress(OSError):
                await reader.read(1)
            held.discard(writer)
            writer.close()

    tasks: set[asyncio.Task[None]] = set()
    while time.monotonic() < end:
        if len(held) < _MOST_CONNECTIONS and len(tasks) < 2 * _MOST_CONNECTIONS:
            tasks.add(task := asyncio.create_task(one()))
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / _OPENED_PER_S)
    for task in tasks:
        task.cancel()


async def _ask(port: int, request: bytes, count: int, end: float) -> None:
    """Send requests from so many connections, each as soon as the one before is answered."""

    async def one() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(request)
                await asyncio.wait_for(reader.read(65536), _TIMEOUT_S)
                writer.close()

    await asyncio.gather(*(one() for _ in range(count)))


def _limit_files(count: int | None) -> None:
    """Let this process, and those that it starts, hold so many files open; None: as many as it may."""
    with contextlib.suppress(ImportError, ValueError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most if count is None else min(count, most), most))


def annoy(kind: str, port: int, seconds: float) -> None:
    """Be the strangers, for so long."""
    _limit_files(None)
    end = time.monotonic() + seconds
    work = {
        "silent": lambda: _hold(port, b"", end),
        "headers": lambda: _hold(port, b"GET /info HTTP/1.1\r\nHost: 127", end),
        "guessers": lambda: _ask(port, _WRONG, _GUESSERS, end),
        "flood": lambda: _ask(port, _NO_TOKEN, _FLOODERS, end),
    }
    asyncio.run(work[kind]())


# ---------------------------------------------------------------------- the engine and its client


@contextlib.contextmanager
def started(tree: Path, log: Path) -> Iterator[tuple[int, str]]:
    """An engine of a checkout, its log in a file; gives its port and token."""
    token = secrets.token_urlsafe()
    with tempfile.TemporaryDirectory() as state, log.open("wb") as errors:
        _limit_files(_DEFAULT_FILES)
        own = {**os.environ, "MPER_TOKEN": token, "PYTHONPATH": str(tree.resolve()), "XDG_STATE_HOME": state}
        process = subprocess.Popen(
            [sys.executable, "-m", "mper", "serve"], stdout=subprocess.PIPE, stderr=errors, env=own, cwd=state
        )
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"], token
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@dataclass(frozen=True)
class Result:
    """Seconds of requests with a token, each on a new connection; how many failed; what the engine logged."""

    strangers: str
    requests: int
    failed: int
    median_s: float
    slowest_s: float
    log_bytes: int

    def row(self) -> list[str]:
        log = f"{self.log_bytes / 1e6:.2f} MB"
        times = [duration(self.median_s), duration(self.slowest_s)]
        return [STRANGERS[self.strangers], str(self.requests), str(self.failed), *times, log]


def measure(kind: str, tree: Path, seconds: float, folder: Path) -> Result:
    """Ask as a client with a token while strangers of a kind are there."""
    log = folder / f"{kind}.txt"
    times: list[float] = []
    failed = 0
    with started(tree, log) as (port, token):
        strangers = None
        if kind != "nobody":
            words = [sys.executable, __file__, "--be", kind, str(port), str(seconds + 2)]
            strangers = subprocess.Popen(words)
            time.sleep(2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.perf_counter()
            try:
                with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)) as connection:
                    connection.request("GET", "/jobs", headers={"Authorization": f"Bearer {token}"})
                    failed += connection.getresponse().status != 200
            except (OSError, http.client.HTTPException):
                failed += 1
            times.append(time.perf_counter() - begin)
            time.sleep(_ASK_EVERY_S)
        if strangers is not None:
            strangers.wait()
        written = log.stat().st_size
    return Result(kind, len(times), failed, float(np.median(times)), max(times), written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[2], metavar="DIR", help="the engine's code")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="N", help="for each kind (default: 20, at most 120)"
    )
    parser.add_argument("--be", nargs=3, metavar=("KIND", "PORT", "SECONDS"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.be:
        kind, port, seconds = arguments.be
        annoy(kind, int(port), float(seconds))
        return
    seconds = min(arguments.seconds, 120.0)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(kind, arguments.tree, seconds, Path(folder)) for kind in STRANGERS]
    show(("strangers", "requests", "failed", "median", "slowest", "log"), [result.row() for result in results])
    keep(arguments.json, {"results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
