"""The events of a run for TensorBoard: losses, learning rate, and Dice on the hold-out, by step.

TensorBoard's own writer is used, which needs no torch. Its package is an extra, ``mper[tensorboard]``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mper.training.runs import RunFolder

FOLDER = "tensorboard"
_TIME = ("step", "fraction", "elapsed_s")
_NO_LOSSES = ("rate", "agreement", "known", "uncertain", "changed", "abstained", "spread")  # of a step's figures


class MissingTensorBoard(ValueError):
    """TensorBoard is not installed; the message says how to get it."""


def check_installed() -> None:
    """Raise MissingTensorBoard where the package is not installed."""
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise MissingTensorBoard(
            'TensorBoard is not installed: pip install "mper[tensorboard]", or leave --tensorboard out'
        ) from error


class TensorBoardFeed:
    """Writes the events of a run, those it has and, with `update`, those it gets. A context manager.

    What was written before is replaced, so that a run that goes on, or is exported again, has each event once.

    Parameters
    ----------
    run : Path
        The run folder.
    out : Path or None
        The folder to write; default ``run/tensorboard``.

    Raises
    ------
    MissingTensorBoard
        If the package is not installed.
    FileExistsError
        If `out` holds anything but the files of TensorBoard.
    """

    def __init__(self, run: Path, out: Path | None = None) -> None:
        check_installed()
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run / FOLDER if out is None else out
        if folder.exists():
            if others := [path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents")]:
                raise FileExistsError(f"{folder} holds {others[0]}, no file of TensorBoard; choose another folder")
            shutil.rmtree(folder)
        self.folder = folder
        self._events = run / "events.jsonl"
        self._position = 0
        self._last_step = -1
        self._writer = EventFileWriter(str(folder))
        self.update()

    def __enter__(self) -> TensorBoardFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update()
        self._writer.close()

    def update(self) -> None:
        """Write the events that the run has got since the last call; a line that is not finished waits."""
        if not self._events.exists():
            return
        with self._events.open("rb") as stream:
            stream.seek(self._position)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a killed process left it
                continue
            self._add(event)
        if whole:
            self._writer.flush()

    def _add(self, event: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not isinstance(event, dict) or event.get("event") not in ("step", "holdout"):
            return
        step, time = int(event["step"]), float(event["time"])
        if event["event"] == "step":
            if step <= self._last_step:  # resumed from a checkpoint: TensorBoard drops what was reported after it
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(wall_time=time, step=step, session_log=start))
            self._last_step = step
            skipped = (*_TIME, "time", "event")
            values = {_tag(name): value for name, value in event.items() if name not in skipped}
        else:
            values = {f"dice/{name}": value for name, value in event["dice"].items()}
            values["dice/mean"] = sum(event["dice"].values()) / len(event["dice"])
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(x)) for tag, x in values.items()])
        self._writer.add_event(Event(wall_time=time, step=step, summary=summary))


def _tag(name: str) -> str:
    if name == "loss":
        return "loss/total"
    return name if name in _NO_LOSSES else f"loss/{name}"


def export_run(run: Path, out: Path | None = None) -> Path:
    """Write the events of a run for TensorBoard; returns the folder.

    Raises
    ------
    ValueError
        If the folder is no run, or TensorBoard is not installed.
    """
    RunFolder(run).config()
    with TensorBoardFeed(run, out) as feed:
        return feed.folder
