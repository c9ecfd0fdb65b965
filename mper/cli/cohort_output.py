"""What `mper segment` says of a cohort: its progress, what each scan became, and the answer at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli.common import volume_texts
from mper.cli.console import Bar, print_error, print_note, print_result
from mper.cli.outputs import SegmentationTask
from mper.models.calibration import GOOD
from mper.progress import Progress
from mper.utils.text import duration

if TYPE_CHECKING:
    from mper.cohort.manifest import CohortScan, Entry
    from mper.cohort.status import CohortStatus
    from mper.models.card import StoredBundle


class CohortOutput:
    """What a person reads while a cohort is segmented, and other programs with `status`.

    Parameters
    ----------
    bar : Bar
    quiet : bool
        Print notes and errors alone.
    status : CohortStatus or None
    """

    def __init__(self, bar: Bar, quiet: bool, status: CohortStatus | None = None) -> None:
        self._bar, self._quiet, self._status = bar, quiet, status

    def report(self, progress: Progress) -> None:
        """Show the progress of all that is left.

        Raises
        ------
        Cancelled
            If another program asks the run to pause.
        """
        self._bar(progress)
        if self._status is not None:
            self._status(progress)

    def entry(self, entry: Entry) -> None:
        """Show what a scan became."""
        if "error" in entry:
            print_error(f"{entry['input']}: {entry['error']}")
            return
        for result in entry["results"]:
            for note in result["notes"]:
                print_note(f"{result['input']}: {note}")
            if not self._quiet:
                self._bar.print_result(f"{result['mask']}: {summary(result)}")


def summary(found: Mapping[str, Any]) -> str:
    """``LA 85.3 mL, expected Dice 0.92 (0.88 to 0.95), 1.2 s``."""
    quality = found["quality"]
    judged = f"confidence {found['confidence']:.2f}"
    if quality is not None:
        warning = "" if quality["level"] == GOOD else f"{quality['level'].upper()}, "
        low, high = quality["range"]
        judged = f"{warning}expected Dice {quality['expected_dice']:.2f} ({low:.2f} to {high:.2f})"
    checked = ["export check passed"] if "check" in found else []  # a file that fails it is not kept
    empty = ["EMPTY MASK"] if found["empty"] else []
    return ", ".join([*empty, *volume_texts(found), judged, *checked, duration(found["seconds"])])


def cohort_answer(
    entries: Sequence[Entry],
    tasks: Sequence[SegmentationTask],
    scans: Sequence[CohortScan],
    stored: StoredBundle,
    arguments: argparse.Namespace,
    seconds: float,
) -> dict[str, Any]:
    """Print the end of a cohort; returns the answer for JSON."""
    asked = {scan.key: task for task, scan in zip(tasks, scans, strict=True)}
    cases: list[dict[str, Any]] = []
    for entry in entries:
        if (task := asked.get(entry["key"])) is not None:  # with the paths as they were typed now
            place = {"input": str(task.scan)}
            if "error" in entry:
                cases.append({**place, "error": entry["error"]})
            else:
                masks = [str(task.mask.with_name(Path(result["mask"]).name)) for result in entry["results"]]
                cases += [{**result, **place, "mask": m} for result, m in zip(entry["results"], masks, strict=True)]
    failed = [case["input"] for case in cases if "error" in case]
    if not arguments.json:
        print_result(f"{len(scans) - len(failed)} of {len(scans)} scans segmented in {duration(seconds)}")
        _print_flagged(cases)
        print_result(f"tables: {Path(arguments.paths[-1]) / 'cohort.csv'}, summary.html, manifest.json")
    if failed:
        print_error(f"{len(failed)} of {len(scans)} scans failed: {', '.join(failed)}")
    devices = [case["device"] for case in cases if "device" in case]
    device = devices[-1] if devices else arguments.device
    model = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    return {
        "model": model,
        "device": device,
        "cases": [{name: value for name, value in case.items() if name != "device"} for case in cases],
        "failed": len(failed),
        "seconds": round(seconds, 3),
    }


def _print_flagged(cases: Sequence[Mapping[str, Any]]) -> None:
    """The masks of a cohort that a person should check, and why."""
    masks = [case for case in cases if "error" not in case]
    flagged = [case for case in masks if case.get("flags")]
    if not flagged:
        return
    print_result(f"{len(flagged)} of {len(masks)} masks to check:")
    for case in flagged:
        print_result(f"  {case['mask']}: {'; '.join(flag['words'] for flag in case['flags'])}")
