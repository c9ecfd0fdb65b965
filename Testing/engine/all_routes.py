"""One call of every route of the engine, in an order in which each has what it needs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from engines import MODEL, Answer, Served, array_header
from small_cohort import small_cohort

from mper.cohort.status import LOCK
from mper.datasets.dataset import Dataset
from mper.engine.services.cohort_store import Cohort
from mper.roi import extent_of
from mper.training.runs import RunFolder
from mper.utils.locking import locked
from mper.volume import Volume


@dataclass
class Calls:
    """Calls an engine; `answers` has method, route as in /openapi.json, body if it is JSON, and answer of each call."""

    engine: Served
    answers: list[tuple[str, str, Any, Answer]] = field(default_factory=list)

    def call(self, method: str, route: str, body: Any = None, query: Any = None, **names: object) -> Answer:
        """`names` fill the braces of `route`; `body` is a volume, or anything that becomes JSON."""
        path = route.format(**{name: quote(str(value).replace("/", "~"), safe="~") for name, value in names.items()})
        headers, sent = None, body
        if isinstance(body, Volume):
            headers, sent, body = {"MPER-Array": array_header(body)}, None, body.array.tobytes()
        answer = self.engine.call(method, path + (f"?{urlencode(query)}" if query else ""), body, headers)
        assert answer.status == 200, (method, path, answer.body[:300])
        self.answers.append((method, route, sent, answer))
        return answer

    def get(self, route: str, query: Any = None, **names: object) -> Any:
        answer = self.call("GET", route, query=query, **names)
        return answer.json() if answer.headers["content-type"] == "application/json" else answer

    def post(self, route: str, body: Any = None, query: Any = None, **names: object) -> Any:
        return self.call("POST", route, {} if body is None else body, query, **names).json()

    def put(self, route: str, body: Any, **names: object) -> Any:
        return self.call("PUT", route, body, **names).json()

    def delete(self, route: str, **names: object) -> Any:
        return self.call("DELETE", route, **names).json()

    def result(self, job: dict[str, Any]) -> dict[str, Any]:
        """What a job gave: its events are followed to the end."""
        self.get("/jobs/{job}/events", job=job["job"])
        last = self.get("/jobs/{job}", job=job["job"])
        assert last["state"] == "finished", last
        return last["result"]


def call_all(engine: Served, home: Path, scan: Volume) -> Calls:
    """Call every route; `home` is the folder of the root ``Data`` of conftest.py, `scan` a small scan."""
    calls = Calls(engine)
    while not calls.get("/info")["ready"]:
        time.sleep(0.05)
    calls.get("/health")
    calls.get("/models")
    _segmentation(calls, scan)
    data = _dataset(calls, home, scan)
    _evaluation(calls, data, home)
    _runs(calls, data, home)
    _cohorts(calls, data, home, scan)
    return calls


def _segmentation(calls: Calls, scan: Volume) -> None:
    calls.result(calls.post("/models/load", {"model": MODEL, "device": "cpu"}))
    one = calls.post("/scans", scan)["scan"]
    job = calls.post("/jobs/segment", {"scan": one, "model": MODEL, "device": "cpu"})
    p = calls.result(job)["prediction"]
    calls.get("/jobs")
    calls.delete("/jobs/{job}", job=job["job"])
    calls.get("/predictions/{prediction}/mask", prediction=p)
    calls.get("/predictions/{prediction}/mask", {"from": "0,0,0", "to": "2,3,4"}, prediction=p)
    for what in ("prototypes", "similarity", "uncertainty", "structures", "uncertain_places"):
        calls.get(f"/predictions/{{prediction}}/{what}", prediction=p)
    calls.get("/predictions/{prediction}/scatter", {"points": 20}, prediction=p)
    calls.get("/predictions/{prediction}/probe", {"k": 3, "j": 20, "i": 18}, prediction=p)
    calls.get("/predictions/{prediction}/probe", {"k": -1, "j": 0, "i": 0}, prediction=p)
    stroke = {"value": 1, "points_mm": [scan.geometry.to_world((1, 3, 3)).tolist()], "radius_mm": 3.0}
    for settle in (False, True):
        calls.put("/predictions/{prediction}/strokes", {"strokes": [stroke], "settle": settle}, prediction=p)
    calls.put("/predictions/{prediction}/strokes", {"strokes": []}, prediction=p)
    _measurement(calls, scan, one)
    calls.delete("/predictions/{prediction}", prediction=p)
    calls.delete("/scans/{scan}", scan=one)


def _measurement(calls: Calls, scan: Volume, one: str) -> None:
    mask = calls.engine.upload(scan.with_array((scan.array > 180).astype(np.uint8)))
    request = {"masks": [mask], "labels": [{"value": 1, "name": "LA"}], "scan": one, "height_cm": 180.0}
    plane = {"kind": "plane", "name": "valve", "point_mm": scan.geometry.to_world((10, 20, 18)).tolist()}
    clips = [{**plane, "normal": scan.geometry.directions[:, 0].tolist()}]
    found = calls.post("/measurements", {**request, "weight_kg": 80.0, "clips": clips, "pool_mm": 1.0})
    calls.get("/surfaces/{surface}", surface=found["surface"])
    phases = {"masks": [mask, mask], "labels": [{"value": 1, "name": "LV"}]}
    calls.post("/measurements", {**phases, "end_diastole": 1, "end_systole": 2})


def _dataset(calls: Calls, home: Path, scan: Volume) -> str:
    calls.post("/roots", {"path": str(home)})
    label = {"value": 1, "name": "structure 1"}
    coded = {"name": "Scar", "type": {"scheme": "SCT", "value": "1", "meaning": "T"}, "colour": [1, 2, 3]}
    made = calls.post("/datasets", {"root": home.name, "folder": "all/routes", "labels": [label, coded]})
    d = made["id"]
    for n in range(5):
        shifted = Volume(scan.array + n, scan.geometry)
        body: dict[str, Any] = {"scan": calls.post("/scans", shifted)["scan"], "source": {"format": "test"}}
        calls.post("/datasets/{d}/cases", body | ({"id": "one", "split": None} if n == 0 else {}), d=d)
    mask = scan.with_array((scan.array > 180).astype(np.uint8))
    labels = "/datasets/{d}/cases/{c}/labels"
    who = {"author": "me", "how": "hand"}
    calls.post(labels, mask, {**who, "seconds": 2.5, "model": "la", "version": "1"}, d=d, c="one")
    for n in (1, 2):
        calls.post(labels, mask, who, d=d, c=f"case-00{n}")
    strokes = [{"value": 1, "points_mm": [scan.geometry.to_world((7, 20, 18)).tolist()], "radius_mm": 4.0}]
    calls.put(f"{labels}/{{n}}/strokes", {"strokes": strokes, "model": "la/1"}, d=d, c="one", n=1)
    calls.get(f"{labels}/{{n}}/strokes", d=d, c="one", n=1)
    calls.post("/datasets/{d}/cases/{c}/strokes", {"strokes": strokes}, {"author": "me"}, d=d, c="one")
    calls.post("/datasets/{d}/cases/{c}/restore", {"number": 1, "author": "me"}, d=d, c="one")
    calls.get(labels, d=d, c="one")
    calls.get("/datasets/{d}/cases/{c}", d=d, c="one")
    calls.get(f"{labels}/{{n}}", d=d, c="one", n=1)
    calls.get(f"{labels}/{{n}}", {"cropped": True}, d=d, c="one", n=1)
    for what in ("image", "thumbnail"):
        calls.get(f"/datasets/{{d}}/cases/{{c}}/{what}", d=d, c="one")
    calls.post("/datasets/{d}/cases/{c}/scan", d=d, c="one")
    calls.post("/datasets/{d}/splits", {"name": "train", "cases": ["one"]}, d=d)
    calls.post("/datasets/{d}/holdout", {"cases": ["case-001", "case-003"]}, d=d)
    calls.post("/datasets/{d}/holdout", {"cases": ["case-002"], "second": True, "author": "me"}, d=d)
    calls.post("/datasets/{d}/labels", {"label": "RA", "author": "me"}, d=d)
    calls.put("/datasets/{d}/cases/{c}/name", {"name": "first", "author": "me"}, d=d, c="one")
    calls.put("/datasets/{d}/cases/{c}/excluded", {"excluded": True, "author": "me"}, d=d, c="one")
    calls.put("/datasets/{d}/cases/{c}/excluded", {"excluded": False, "author": "me"}, d=d, c="one")
    box = [float(end) for ends in zip(*extent_of(scan.geometry), strict=True) for end in ends]
    calls.put("/datasets/{d}/cases/{c}/region", {"region_mm": box, "author": "me"}, d=d, c="one")
    calls.put("/datasets/{d}/cases/{c}/region", {"region_mm": None, "author": "me"}, d=d, c="one")
    calls.post("/datasets/{d}/cases", {"scan": calls.post("/scans", scan)["scan"], "id": "gone"}, d=d)
    calls.call("DELETE", "/datasets/{d}/cases/{c}", None, {"author": "me"}, d=d, c="gone")
    (home / "all" / "routes" / "cases" / "damaged").mkdir()
    (home / "all" / "routes" / "cases" / "damaged" / "case.json").write_text("{", encoding="utf-8")
    calls.get("/datasets/{d}/cases", d=d)
    (home / "all" / "routes" / "cases" / "damaged" / "case.json").unlink()
    (home / "all" / "routes" / "cases" / "damaged").rmdir()
    return str(d)


def _evaluation(calls: Calls, d: str, home: Path) -> None:
    dataset = Dataset.open(home / "all" / "routes")
    for _ in range(2):
        dataset.publish_model("small", home.parent / "vnet")
    calls.result(calls.post("/datasets/{d}/rank", {"model": f"{d}/small", "device": "cpu"}, d=d))
    body = {"old": f"{d}/small/1", "new": f"{d}/small/2", "device": "cpu"}
    job = calls.post("/datasets/{d}/compare", body, d=d)
    calls.result(job)
    for when in ("before", "after"):
        calls.get("/jobs/{job}/masks/{case}/{when}", job=job["job"], case="case-001", when=when)
    calls.post("/datasets/{d}/models/{name}/use", {"version": 2}, d=d, name="small")
    calls.get("/datasets")
    calls.get("/datasets/{d}", d=d)


@contextlib.contextmanager
def no_process(engine: Served) -> Iterator[None]:
    """Runs are noted as finished in the place of being started."""

    def start(run: RunFolder) -> None:
        told = {"state": "finished", "message": "trained in 1 s", "fraction": 1.0, "step": 3, "elapsed_s": 1.5}
        (run.path / "status.json").write_text(json.dumps({**told, "heartbeat": 0, "device": "CPU"}), encoding="utf-8")
        events = [
            {"event": "state", "state": "running", "message": "running"},
            {"event": "step", "step": 1, "fraction": 0.5, "elapsed_s": 0.5, "loss": 1.25, "supervised": 1.25},
            {"event": "holdout", "step": 1, "fraction": 0.5, "dice": {"structure 1": 0.5}, "seconds": 0.25},
            {"event": "notice", "message": "mind the gap"},
        ]
        lines = [json.dumps({"time": 1.5, **event}) for event in events]
        (run.path / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (run.path / "log.txt").write_text("trained in 1 s\n", encoding="utf-8")

    launcher = engine.engine.launcher
    before, launcher.start = launcher.start, start  # type: ignore[method-assign]
    try:
        yield
    finally:
        launcher.start = before  # type: ignore[method-assign]


def _runs(calls: Calls, d: str, home: Path) -> None:
    calls.post("/datasets/{d}/plan", d=d)
    body = {"method": "supervised", "steps": 3, "start_from": f"{d}/small", "device": "cpu", "patch": [16, 16, 16]}
    with no_process(calls.engine):
        run = calls.post("/datasets/{d}/runs", body, d=d)["run"]
        calls.get("/datasets/{d}/runs", d=d)
        for what in ("", "/events", "/log"):
            calls.get(f"/datasets/{{d}}/runs/{{r}}{what}", d=d, r=run)
        status = home / "all" / "routes" / "runs" / run / "status.json"
        status.write_text(json.dumps({"state": "interrupted", "heartbeat": 0}), encoding="utf-8")
        calls.post("/datasets/{d}/runs/{r}/command", {"command": "resume"}, d=d, r=run)
        calls.get("/datasets/{d}", d=d)


def _cohorts(calls: Calls, d: str, home: Path, scan: Volume) -> None:
    out = small_cohort(home.parent / "cohort", scan, "abxw", broken="x", waiting="w")
    c = calls.post("/cohorts/open", {"path": str(out)})["id"]
    start = Cohort.start
    Cohort.start = lambda _cohort, _words: None  # type: ignore[method-assign]
    try:
        body = {"folder": str(home), "out": str(home.parent / "new"), "model": MODEL, "device": "cpu", "tta": False}
        calls.post("/cohorts", body)
        calls.post("/cohorts/{c}/command", {"command": "resume"}, c=c)
    finally:
        Cohort.start = start  # type: ignore[method-assign]
    with locked(out / LOCK):  # as a process that works on it has it
        calls.post("/cohorts/{c}/command", {"command": "pause"}, c=c)
    calls.get("/cohorts")
    calls.get("/cohorts", {"dataset": d})
    for mask, decision in (("a.seg.nrrd", "accepted"), ("b.seg.nrrd", "rejected")):
        calls.post("/cohorts/{c}/reviews", {"mask": mask, "decision": decision, "author": "me", "seconds": 1.5}, c=c)
    part = scan.with_array((scan.array > 190).astype(np.uint8))
    calls.post("/cohorts/{c}/corrections", part, {"mask": "b.seg.nrrd", "author": "me"}, c=c)
    for what in ("labels", "thumbnail", "image", "mask"):
        calls.get(f"/cohorts/{{c}}/{what}", {"mask": "b.seg.nrrd"}, c=c)
    calls.result(calls.post("/cohorts/{c}/keep", {"dataset": d, "author": "me", "split": None}, c=c))
    for what in ("", "/rows", "/log"):
        calls.get(f"/cohorts/{{c}}{what}", c=c)
