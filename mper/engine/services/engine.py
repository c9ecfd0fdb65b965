"""The engine's parts: one of each for the life of the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from mper.datasets.dataset import folders_of_work
from mper.engine.errors import explained
from mper.engine.services.cohort_store import CohortStore
from mper.engine.services.devices import Devices
from mper.engine.services.diagnostics import as_text, examine
from mper.engine.services.jobs import JobStore
from mper.engine.services.launcher import Launcher
from mper.engine.services.measurement import SurfaceStore
from mper.engine.services.models import ModelCatalog
from mper.engine.services.predictions import PredictionStore
from mper.engine.services.roots import Roots
from mper.engine.services.scans import ScanStore
from mper.engine.settings import Settings
from mper.training.runs import RunFolder
from mper.utils.cleanup import remove_unfinished

_MAINTAIN_EVERY_S = 300.0
_MEASURED_AT_ONCE = 2  # each takes a core for seconds, and memory of several times the scan

log = logging.getLogger("mper.engine")


class Engine:
    """Everything that lives as long as the engine.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.roots = Roots(settings.roots)
        self.devices = Devices(self.trainings)
        self.jobs = JobStore(settings.spool, self.devices.turn, self.explain, settings.limits)
        self.scans = ScanStore(settings.spool, settings.limits)
        self.models = ModelCatalog(self.roots)
        self.predictions = PredictionStore(settings.limits)
        self.surfaces = SurfaceStore()
        self.measuring = asyncio.Semaphore(_MEASURED_AT_ONCE)
        self.launcher = Launcher()
        self.cohorts = CohortStore(self.roots)
        self.closing = asyncio.Event()
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the threads that import torch, and that remove what is no longer used."""
        self.devices.start()
        threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()

    def _maintain(self) -> None:
        cleaned: set[Path] = set()
        while not self._ended.is_set():
            try:
                self.scans.expire()
                self.predictions.expire()
                for _, folder in self.roots.datasets():
                    if folder not in cleaned:
                        remove_unfinished(folders_of_work(folder), unowned=True)
                        cleaned.add(folder)
            except Exception as error:  # a folder on a server that is away, for example
                log.warning("the clean-up has failed, and is tried again later: %s", type(error).__name__)
            self._ended.wait(_MAINTAIN_EVERY_S)

    def explain(self, error: BaseException) -> str:
        """One line for a client."""
        return explained(error, self.folders())

    def folders(self) -> Mapping[Path, str]:
        """Folders whose paths must not be sent to clients, and the names that replace them."""
        named = {path: name for name, path in self.roots.folders.items()}
        with contextlib.suppress(RuntimeError):  # no home folder
            named.setdefault(Path.home(), "~")
        return {**named, self.settings.spool: "the engine's spool"}

    def trainings(self) -> list[str]:
        """Trainings in the roots that run on a GPU of this machine now."""
        found = []
        for dataset_id, folder in self.roots.datasets():
            for status in folder.glob("runs/*/status.json"):
                run = RunFolder(status.parent)
                with contextlib.suppress(OSError, ValueError, KeyError):
                    # A run that pauses holds memory, but computes nothing; the predictor looks at free memory itself.
                    entry = run.status()
                    on_cpu = run.config().get("device") == "cpu" or str(entry.get("device", "")).startswith("CPU")
                    if run.is_alive() and entry["state"] != "paused" and not on_cpu:
                        found.append(f"{run.title()} of dataset {dataset_id}")
        return found

    def diagnostics(self) -> str:
        """What `mper doctor` says, without its self-test; before torch is loaded that it is being loaded."""
        if self.devices.failure is not None:
            return self.explain(self.devices.failure)
        return as_text(examine(self.explain, self_test=False)) if self.devices.ready else "getting ready"

    def close(self) -> None:
        """Cancel all jobs and let go of everyone who follows one."""
        self.closing.set()
        self._ended.set()
        self.jobs.cancel_all()
