"""The devices of this machine: one job at a time on each, and predictions that leave the GPU to a training run.

Torch is imported in a thread of its own after the engine listens: the import takes seconds, under a virus scanner many.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mper.engine.schemas.info import DeviceModel
from mper.engine.services.jobs import Job
from mper.progress import Progress
from mper.utils.coded import Coded
from mper.utils.processes import available_cores

_LOOK_EVERY_S = 0.25
_TRAINING_EVERY_S = 2.0
_FILES = "files"  # the turn of work on files alone


class Devices:
    """The devices of this machine, and the turns that jobs take on them.

    Parameters
    ----------
    trainings : callable
        Names of the trainings that run on a GPU of this machine now.
    """

    def __init__(self, trainings: Callable[[], list[str]]):
        self._trainings = trainings
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._waiting: dict[str, deque[Job]] = {}
        self._moved = threading.Condition()
        self._described: list[DeviceModel] | None = None
        self._default = "cpu"

    def start(self) -> None:
        """Begin to import torch and what predicts with it."""
        threading.Thread(target=self._import, name="torch", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether torch is there."""
        return self._ready.is_set() and self._failure is None

    @property
    def failure(self) -> BaseException | None:
        """Why torch cannot be imported."""
        return self._failure

    @property
    def default(self) -> str:
        """What ``auto`` takes."""
        return self._default

    def describe(self) -> list[DeviceModel]:
        """Name and words of each device; before torch is there, of the CPU alone."""
        return self._described or [DeviceModel(name="cpu", words=f"CPU ({available_cores()} cores)")]

    def wait_until_known(self, timeout_s: float) -> bool:
        """Wait until torch has listed the devices, at most so long; returns whether it has."""
        return self._ready.wait(timeout_s)

    def wait(self, job: Job) -> None:
        """Wait until torch is there.

        Raises
        ------
        ImportError
            If it cannot be imported.
        """
        if not self._ready.is_set():
            job(Progress("getting ready (the first start takes longest)"))
        while not self._ready.wait(_LOOK_EVERY_S):
            job.check()
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def turn(self, device: str | None, job: Job) -> Iterator[str]:
        """Hold a device for the length of a with block; gives the name of the one that was granted.

        While a training has the GPU, ``auto`` means the CPU, and a GPU that was asked for by name is waited for. None
        is for work on files alone, which needs no torch and waits only for other such work.

        Raises
        ------
        Cancelled
            While it waits.
        ValueError
            If this machine has no such device.
        """
        if device is None:
            granted = _FILES
        else:
            self.wait(job)
            granted = self._grant(device, job)
        with self._moved:
            queue = self._waiting.setdefault(granted, deque())
            queue.append(job)
        try:
            with self._moved:
                if queue[0] is not job:
                    loads = queue[0].kind == "load"  # the model that was just chosen, in most cases
                    job(Progress("loading the model" if loads else "waiting for other jobs to end"))
                while queue[0] is not job:
                    self._moved.wait(_LOOK_EVERY_S)
                    job.check()
            yield granted
        finally:
            with self._moved:
                queue.remove(job)
                self._moved.notify_all()

    def _grant(self, device: str, job: Job) -> str:
        from mper.utils.devices import pick_device

        name = str(pick_device(device))
        if name == "cpu":
            return name
        trainings = self._trainings()
        if trainings and device == "auto":
            line = f"the training {trainings[0]} uses the GPU, so this job ran on the CPU"
            job.notice(Coded(line, "ran-on-cpu", run=trainings[0]))
            return "cpu"
        if trainings:
            line = f"waited for the training {trainings[0]}, which used the GPU"
            job.notice(Coded(line, "waited-for-training", run=trainings[0]))
            job(Progress(f"waiting for the training {trainings[0]}: pause it, or choose the CPU"))
        while trainings:
            job.wait(_TRAINING_EVERY_S)
            trainings = self._trainings()
        return name

    def _import(self) -> None:
        try:
            self._described, self._default = _list_devices()
        except BaseException as error:  # raised for each job
            self._failure = error
        self._ready.set()


def _list_devices() -> tuple[list[DeviceModel], str]:
    """All devices that torch can use, and the name of the default one."""
    import torch

    from mper.utils.devices import cuda_cards, describe_device, has_kernels, pick_device
    from mper.utils.processes import reserve_one_core

    reserve_one_core()
    found: list[Any] = [torch.device("cpu")]
    if torch.backends.mps.is_available():
        found.insert(0, torch.device("mps"))
    found[:0] = filter(has_kernels, cuda_cards())
    devices = [DeviceModel(name=str(device), words=describe_device(device)) for device in found]
    return devices, str(pick_device("auto"))
