"""Progress and notices of a training run: into its folder, and to the caller."""

from __future__ import annotations

from collections.abc import Callable

from mper.progress import Cancelled, Notify, Progress, Report
from mper.training.runs import RunFolder, RunLog


class CommandReceived(Exception):
    """A command to pause or to cancel the run has come."""


class RunReporter:
    """Reports of one process of a run; only the first one's reach the folder.

    Parameters
    ----------
    folder : RunFolder
    log : RunLog or None
        None on all ranks but the first.
    report : Report
    notify : Notify
    save : callable
        Called before the run is cancelled by its caller.
    world_size : int
        The processes of the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        log: RunLog | None,
        report: Report,
        notify: Notify,
        save: Callable[[], None],
        world_size: int,
    ):
        self._folder, self._log, self._report, self._notify = folder, log, report, notify
        self._save, self._world_size = save, world_size

    def notify(self, message: str) -> None:
        """Something unusual: an event, and a line for the caller."""
        if self._log:
            self._log.event("notice", message=message)
            self._notify(message)

    def tell(self, message: str) -> None:
        """A line for the caller alone: who follows the run in Slicer has no use for it."""
        if self._log:
            self._notify(message)

    def progress(
        self, message: str, fraction: float | None, values: dict[str, float], eta_s: float | None = None
    ) -> None:
        """Report; if the report raises Cancelled, the run is saved and cancelled."""
        if self._log:
            self._log.note(message=message)
        try:
            self._report(Progress(message, fraction, eta_s, values))
        except Cancelled:
            if self._world_size > 1:  # the other processes learn of it as of any command
                self._folder.steer("cancel")
                return
            self._save()
            if self._log:
                self._log.set(state="cancelled")
            raise

    def measuring(self, progress: Progress) -> None:
        """Report from work beside the steps, which ends at a command.

        Raises
        ------
        CommandReceived
        """
        if self._folder.command() != "run":
            raise CommandReceived
        self.progress(progress.message, None, {})
