"""What a person in Slicer waits for: start, upload, segmentation and strokes over HTTP, against the direct calls.

The engine is a process of its own, as in Slicer, below normal priority; its client is the standard library's. The
direct call is `mper.inference.predictor.Predictor` in this process, at the same priority and with the same results
wanted (mask, confidence, prototypes and embeddings), and `mper.refinement.refiner.Refiner`. Ratios say what HTTP, the
job and the figures of the result's table add.

    python Testing/benchmarks/engine.py
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from _timing import add_options, add_repeats, duration, keep, show, take_turns
from commands import BIG_SHAPE, write_big_scan

from mper.io import read_volume
from mper.resources import find_model, sample_scan
from mper.utils.processes import lower_priority
from mper.volume import Volume

if TYPE_CHECKING:
    from mper.inference.predictor import Predictor
    from mper.strokes import Stroke

_WANTED = ("label_probability", "prototypes", "embeddings")
_DRAWN = 4  # strokes that are there already


class Engine:
    """A client of an engine."""

    def __init__(self, port: int, token: str):
        self._port, self._headers = port, {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**self._headers, **headers})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path} was answered {answer.status}: {content[:500]!r}")
            return content

    def upload(self, scan: Volume) -> str:
        """As Slicer does it: from a file."""
        geometry = scan.geometry
        header = {"shape": list(scan.array.shape), "dtype": scan.array.dtype.name, "affine": geometry.affine.tolist()}
        with tempfile.TemporaryFile() as file:
            file.write(np.ascontiguousarray(scan.array).data)
            file.seek(0)
            told = {"MPER-Array": json.dumps(header), "Content-Length": str(scan.array.nbytes)}
            return str(json.loads(self.call("POST", "/scans", file, **told))["scan"])

    def result(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Start a job, follow it, and give what it gave."""
        job = json.loads(self.call("POST", path, body))["job"]
        last = json.loads(self.call("GET", f"/jobs/{job}/events").splitlines()[-1])
        if last["state"] != "finished":
            raise RuntimeError(f"the job {last['state']}: {last['error']}")
        return dict(last["result"])

    def segment(self, scan: str, model: str) -> dict[str, Any]:
        """From the click to the mask in hand; gives the result."""
        result = self.result("/jobs/segment", {"scan": scan, "model": model, "device": "cpu"})
        self.call("GET", f"/predictions/{result['prediction']}/mask")
        return result

    def correct(self, prediction: str, strokes: Sequence[Stroke], settle: bool) -> None:
        """From a stroke to the voxels that it changed, in hand."""
        told = [{"value": s.value, "points_mm": s.points_mm, "radius_mm": s.radius_mm} for s in strokes]
        answer = json.loads(self.call("PUT", f"/predictions/{prediction}/strokes", {"strokes": told, "settle": settle}))
        if answer["changed"] is not None:
            start, stop = (",".join(str(n) for n in end) for end in answer["changed"])
            self.call("GET", f"/predictions/{prediction}/mask?from={start}&to={stop}")


@contextlib.contextmanager
def started(threads: int) -> Iterator[tuple[Engine, float]]:
    """An engine, and the seconds until it listened."""
    token = secrets.token_urlsafe()
    environment = {**os.environ, "MPER_TOKEN": token, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mper", "serve", "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield Engine(port, token), time.perf_counter() - begin
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


@dataclass(frozen=True)
class Result:
    """Seconds over HTTP beside those of the direct way; None where there is none."""

    what: str
    seconds: float
    direct: str = ""
    direct_s: float | None = None
    target_s: float | None = None

    def row(self) -> list[str]:
        ratio = "-" if self.direct_s is None else f"{self.seconds / self.direct_s:.2f}"
        target = "" if self.target_s is None else f"{self.target_s:g} s"
        return [self.what, duration(self.seconds), self.direct, duration(self.direct_s), ratio, target]


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def starts(model: str, scan: Volume, repeats: int, threads: int) -> list[Result]:
    """Engines that have just been started: until they listen, until a model is loaded, until a first mask."""
    listens, loads, masks = [], [], []
    for turn in range(repeats + 1):
        with started(threads) as (engine, seconds):
            loaded = timed(lambda engine=engine: engine.result("/models/load", {"model": model, "device": "cpu"}))
        with started(threads) as (engine, again):
            mask = timed(lambda engine=engine: engine.segment(engine.upload(scan), model))
        if turn:  # the first one reads files from disk
            listens += [seconds, again]
            loads.append(seconds + loaded)
            masks.append(again + mask)
    return [
        Result("start, until it listens", float(np.median(listens))),
        Result("start, until the model is loaded", float(np.median(loads))),
        Result("start, until the sample's mask is there", float(np.median(masks)), target_s=8),
    ]


def corrections(
    engine: Engine, predictor: Predictor, result: dict[str, Any], scan: Volume, what: str, repeats: int
) -> list[Result]:
    """A stroke after `_DRAWN` others, its clean-up and undo: over HTTP with the new voxels, and by `Refiner` itself."""
    from mper.refinement.refiner import Refiner
    from mper.strokes import Stroke

    refiner = Refiner(predictor.predict(scan, want=_WANTED))
    places = [place["mm"] for place in result["uncertain_places"]][: _DRAWN + 1]
    strokes = [Stroke(n % 2, (tuple(place),), 2.0) for n, place in enumerate(places)]
    steps = {"a stroke": (strokes, False), "its clean-up": (strokes, True), "undo": (strokes[:-1], True)}
    engine.correct(result["prediction"], strokes[:-1], True)
    refiner.set_strokes(strokes[:-1])
    times: dict[str, list[float]] = {f"{step}{way}": [] for step in steps for way in ("", " direct")}
    for turn in range(repeats + 1):
        for step, (wanted, settle) in steps.items():
            http = timed(partial(engine.correct, result["prediction"], wanted, settle))
            direct = timed(partial(refiner.set_strokes, wanted, settle))
            if turn:  # the first one finds cold caches
                times[step].append(http)
                times[f"{step} direct"].append(direct)
    return [
        Result(f"{what}: {step}", median(times[step]), "Refiner", median(times[f"{step} direct"]), target)
        for step, target in zip(steps, (0.4, None, None), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="la", metavar="NAME", help="which bundled model (default: la)")
    add_repeats(parser)
    add_options(parser)
    arguments = parser.parse_args()
    model, repeats, threads = arguments.model, arguments.repeats, arguments.threads
    sample = read_volume(sample_scan())
    with tempfile.TemporaryDirectory() as name:
        write_big_scan(Path(name) / "big.nrrd", (16, 64, 64) if arguments.quick else BIG_SHAPE)
        found = read_volume(Path(name) / "big.nrrd")
        big = found.with_array(found.array.astype(np.int16))
        results = starts(model, sample, repeats, threads)

        import torch

        from mper.inference.predictor import Predictor
        from mper.models.bundle import ModelBundle

        torch.set_num_threads(threads)
        lower_priority()
        predictor = Predictor(ModelBundle.load(find_model(model)), "cpu")
        with started(threads) as (engine, _):
            engine.result("/models/load", {"model": model, "device": "cpu"})
            copy = Path(name) / "copy"
            k, j, i = big.array.shape
            size = f"{i}x{j}x{k}"
            times = take_turns(
                {
                    "upload": lambda: engine.upload(big),
                    "copy": lambda: copy.write_bytes(big.array.data),
                },
                repeats,
            )
            upload = f"upload of {size} int16 ({big.array.nbytes / 1e6:.0f} MB)"
            results.append(Result(upload, times["upload"].median, "to a file", times["copy"].median))
            ids = {"sample": engine.upload(sample), "big": engine.upload(big)}
            times = take_turns(
                {
                    "sample": lambda: engine.segment(ids["sample"], model),
                    "sample direct": lambda: predictor.predict(sample, want=_WANTED),
                    "sample mask": lambda: predictor.predict(sample),
                    "big": lambda: engine.segment(ids["big"], model),
                    "big direct": lambda: predictor.predict(big, want=_WANTED),
                },
                repeats,
            )
            direct = "Predictor"
            results += [
                Result(
                    "the sample, from click to mask", times["sample"].median, direct, times["sample direct"].median, 4
                ),
                Result("the same", times["sample"].median, "mask alone", times["sample mask"].median),
                Result(f"{size}, from click to mask", times["big"].median, direct, times["big direct"].median),
            ]
            for what, scan in (("sample", sample), ("big", big)):
                result = engine.segment(ids[what], model)
                named = "the sample" if what == "sample" else size
                results += corrections(engine, predictor, result, scan, named, 3 * repeats)
            prediction = engine.segment(ids["sample"], model)["prediction"]
            asked = {
                "a probe": f"/predictions/{prediction}/probe?k=40&j=60&i=80",
                "the scatter plot": f"/predictions/{prediction}/scatter",
                "the prototype map": f"/predictions/{prediction}/prototypes",
            }
            times = take_turns({what: lambda path=path: engine.call("GET", path) for what, path in asked.items()}, 20)
            results += [Result(what, times[what].median) for what in asked]
    show(("what", "time", "direct way", "time", "ratio", "should be under"), [result.row() for result in results])
    keep(arguments.json, {"results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
