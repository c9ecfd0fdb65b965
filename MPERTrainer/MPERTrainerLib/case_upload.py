"""Scans on their way into a dataset: new cases with their masks, or other labels of cases that they are already."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from MPERLib.engine import route
from MPERLib.engine_session import EngineSession
from MPERLib.questions import agreed
from slicer.i18n import tr as _

from MPERTrainerLib.open_dataset import OpenDataset

SPLIT = "train"


@dataclass(frozen=True, eq=False)
class OfferedScan:
    """A scan for the dataset.

    checksum : of its voxels; array, header : voxels (k, j, i), and affine and known spacing; name : of the case, None
    to have it numbered by the engine; source : where it came from; mask : its label on the same grid, or None.
    """

    checksum: str
    array: np.ndarray
    header: dict[str, Any]
    name: str | None
    source: dict[str, str]
    mask: np.ndarray | None = None


class CaseUpload:
    """Sends scans and masks to the engine, which makes cases of them in the dataset that is open now.

    Parameters
    ----------
    session : EngineSession
    dataset : OpenDataset
    progress : callable
        Takes the share of a scan that was sent.

    Attributes
    ----------
    into, labels : str or None, list of dict
        The dataset that the cases go into, and its structures; another one may be open by the time they do.
    scans : dict
        The cases by the checksum of their scan.
    taken : list of str
        The ids of all cases of the dataset.
    added : list of str
        The cases that were made.
    problems : list of str
        What did not go as asked for, and notes, one line each.
    """

    def __init__(self, session: EngineSession, dataset: OpenDataset, progress: Callable[[float], None]):
        self._session, self._dataset, self._progress = session, dataset, progress
        self.into, self.labels = dataset.id, list(dataset.labels)
        self._heldOut = dataset.heldOut()
        self.scans: dict[str, str] = {}
        self.taken: list[str] = []
        self.added: list[str] = []
        self.problems: list[str] = []

    def offer(self, scan: OfferedScan, added: Callable[[str | None], None]) -> None:
        """Add a scan, or its mask as another label of the case that the scan is already; ``added(case id or None)``."""
        case, mask = self.scans.get(scan.checksum), scan.mask
        shown = scan.name or _("the scan")
        if case is None:

            def withCase(new: str | None) -> None:
                if new:
                    self.scans[scan.checksum] = new
                added(new)

            self._send(scan, withCase)
            return
        if mask is None:
            text = _("{scan} is in the dataset already, as {case}; open {case} to draw another label")
            self.problems.append(text.format(scan=shown, case=case))
            added(case)
            return
        question = _("{scan} is the same scan as {case}. Another label for {case}?").format(scan=shown, case=case)
        if self._dataset.id == self.into:  # cases may have been held out meanwhile
            self._heldOut = self._dataset.heldOut()
        if case in self._heldOut:
            question += "\n\n" + _(
                "{case} is in the hold-out set: a new label changes the figures of every version."
            ).format(case=case)
        if not agreed(question, _("Add scans")):
            self.problems.append(_("{scan} is {case} already; it was not added").format(scan=shown, case=case))
            added(None)
            return

        def labelled(_answer: Any) -> None:
            self.problems.append(_("{case} has another label, of {scan}").format(scan=shown, case=case))
            added(case)

        def failed(message: str) -> None:
            self.problems.append(f"{shown}: {message}")
            added(None)

        path = self._dataset.route("cases", case, "labels", of=self.into, author="import", how="imported")
        self._session.postArray(path, mask, {"start": [0, 0, 0]}, labelled, failed)

    def _send(self, scan: OfferedScan, added: Callable[[str | None], None]) -> None:
        """Send a scan, add it as a case, and send its mask."""
        session, dataset, name, mask = self._session, self._dataset, scan.name, scan.mask
        body = {"source": scan.source, "split": SPLIT} | ({"id": self._freeName(name)} if name else {})

        def failed(message: str) -> None:
            self.problems.append(f"{name}: {message}" if name else message)
            added(None)

        def withScan(answer: dict) -> None:
            sent = answer["scan"]

            def withCase(case: dict) -> None:
                session.delete(route("scans", sent))
                self.added.append(case["id"])
                self.problems += [f"{case['id']}: {text}" for text in case.get("notices", [])]
                if mask is None:
                    added(case["id"])
                    return
                path = dataset.route("cases", case["id"], "labels", of=self.into, author="import", how="imported")
                session.postArray(path, mask, {"start": [0, 0, 0]}, lambda _answer: added(case["id"]), failed)

            session.post(dataset.route("cases", of=self.into), {**body, "scan": sent}, withCase, failed)

        session.postArray("/scans", scan.array, scan.header, withScan, failed, self._progress)

    def _freeName(self, wanted: str) -> str:
        """A case id that no case has yet, and that can be the name of a folder."""
        taken = {case.casefold() for case in (*self.taken, *self.added)}
        base = re.sub(r'[<>:"/\\|?*~\x00-\x1f]+', "-", wanted).strip(" .-")[:100] or "scan"
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        return name
