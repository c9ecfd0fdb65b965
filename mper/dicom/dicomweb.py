"""Archives that speak DICOMweb: find instances (QIDO-RS), fetch them (WADO-RS), store them (STOW-RS).

What the archive holds is queried before anything is sent, and again after every interruption: an instance is never sent
twice, whatever broke in between, and a transfer that was interrupted continues when it is started again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from mper.dicom.instances import Instance, find_instances, next_batch
from mper.dicom.web_requests import TIMEOUT_S, Access, Backoff, NotFound, Refused, Unavailable, attempt, query
from mper.dicom.web_retrieve import ACCEPTED, NOT_ACCEPTABLE, checked, retrieve
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress
from mper.utils.coded import Coded, line_of
from mper.utils.files import write_atomically

__all__ = ["Access", "Archive", "PulledSeries", "PushSummary"]

_STUDY, _SERIES, _INSTANCE, _MODALITY, _DESCRIPTION = "0020000D", "0020000E", "00080018", "00080060", "0008103E"


@dataclass(frozen=True)
class PushSummary:
    """What became of instances: sent now, already there, refused (with the reason)."""

    sent: int
    already: int
    failed: Mapping[str, str]


@dataclass(frozen=True)
class PulledSeries:
    """A series that was fetched: its folder holds `images` files, `fetched` of them new."""

    uid: str
    modality: str
    description: str
    images: int
    fetched: int
    folder: Path


class Archive:
    """An archive, asked over DICOMweb.

    Parameters
    ----------
    access : Access
    notify : callable
        Called when the archive does not answer and is tried again.
    """

    def __init__(self, access: Access, notify: Notify = ignore_notice):
        from dicomweb_client import DICOMwebClient

        self._access = access
        self._notify = notify
        self._session = access.session()
        self._accept = list(ACCEPTED)  # what this archive has not refused yet
        self._client = DICOMwebClient(
            access.url.rstrip("/"), session=self._session, timeout=TIMEOUT_S, permissive_uid=True
        )
        # The client would send again without a query of what has arrived.
        self._client.set_http_retry_params(retry=False)

    def push(self, paths: Sequence[Path], report: Report = ignore_progress) -> PushSummary:
        """Store files; folders stand for the DICOM files in and below them.

        Raises
        ------
        ValueError
            If a file is not DICOM, two files claim to be the same instance and differ, or the archive answers otherwise
            than DICOMweb does.
        PermissionError
            If it refuses the login.
        ConnectionError
            If it does not answer for too long, or cannot be trusted; the message says how far the transfer came.
        """
        waiting = find_instances(paths, self._notify)
        total = len(waiting)
        report(Progress("querying the archive", 0.0))
        present = self._present(waiting)
        waiting = [item for item in waiting if item.uid not in present]
        everything = list(waiting)
        failed: dict[str, str] = {}
        while waiting:
            report(Progress(f"sending to the archive ({total - len(waiting)} of {total})", 1 - len(waiting) / total))
            batch = next_batch(waiting)
            try:
                failed |= self._send(batch)
            except ConnectionError as error:
                reason, there = line_of(error), total - len(waiting)
                line = f"{reason}; {there} of {total} instances are there: run the command again, what has arrived is "
                line += "not sent twice"
                raise type(error)(Coded(line, "sent-in-part", reason=reason, n=there, total=total)) from error
            waiting = waiting[len(batch) :]
        arrived = self._present(everything) if everything else set()
        for item in everything:
            if item.uid not in arrived:
                failed.setdefault(item.uid, "not stored: the archive reported no error and does not list it")
        report(Progress("sent", 1.0))
        return PushSummary(len(everything) - len(failed), len(present), failed)

    def find_study(self, accession: str) -> str:
        """The StudyInstanceUID of an accession number.

        Raises
        ------
        ValueError
            If the archive has no such study, or several.
        """
        found = self._query(self._client.search_for_studies, search_filters={"AccessionNumber": accession}, limit=10)
        uids = sorted({_value(item, _STUDY) for item in found})
        if len(uids) != 1:
            count = f"{len(uids)} studies ({', '.join(uids)}); name one with --study" if uids else "no study"
            raise ValueError(f"{self._access.url} has {count} of accession number {accession!r}")
        return uids[0]

    def pull(
        self, study: str, folder: Path, series: str | None = None, report: Report = ignore_progress
    ) -> list[PulledSeries]:
        """Fetch a study (or one series of it) into ``folder/<series UID>/<instance UID>.dcm``.

        Files that are there stay; what was broken off goes on.

        Raises
        ------
        ValueError
            If the archive has no such study or series, or sends something else than was asked for.
        PermissionError
            If it refuses the login.
        ConnectionError
            If it does not answer for too long, or cannot be trusted.
        OSError
            If a file cannot be written.
        """
        _check_uids(study, series)
        found = self._query(self._client.search_for_series, study)
        wanted = {_value(item, _SERIES): item for item in found if series in (None, _value(item, _SERIES))}
        if not wanted:
            what = f"series {series} in study {study}" if series else f"study {study}"
            raise ValueError(f"{self._access.url} holds no {what}")
        pulled = []
        for n, (uid, item) in enumerate(sorted(wanted.items())):
            place = folder / uid
            instances = sorted(self._list(study, uid))
            place.mkdir(parents=True, exist_ok=True)
            fetched = 0
            for m, instance in enumerate(instances):
                _check_uids(instance)
                share = (n + m / len(instances)) / len(wanted)
                report(Progress(f"fetching series {n + 1} of {len(wanted)}, image {m + 1} of {len(instances)}", share))
                path = place / f"{instance}.dcm"
                if not path.exists():
                    write_atomically(path, [self._fetch(study, uid, instance)])
                    fetched += 1
            modality, description = _value(item, _MODALITY), _value(item, _DESCRIPTION)
            pulled.append(PulledSeries(uid, modality, description, len(instances), fetched, place))
        report(Progress("fetched", 1.0))
        return pulled

    def _present(self, items: Iterable[Instance]) -> set[str]:
        """Which of the instances the archive has."""
        found: set[str] = set()
        for study, series in sorted({(item.study, item.series) for item in items}):
            filters = {"StudyInstanceUID": study}
            if self._query(self._client.search_for_studies, search_filters=filters, limit=1):
                found |= self._list(study, series)
        return found & {item.uid for item in items}

    def _list(self, study: str, series: str) -> set[str]:
        """The instances of a series; page by page, as archives may answer with a part."""
        found: set[str] = set()
        offset = 0
        while True:
            try:
                page = self._query(self._client.search_for_instances, study, series, offset=offset)
            except NotFound:  # some archives answer so for an empty list
                return found
            new = {_value(item, _INSTANCE) for item in page} - found
            if not new:
                return found
            found |= new
            offset += len(page)

    def _fetch(self, study: str, series: str, instance: str) -> bytes:
        """One instance as a file, in the transfer syntax in which the archive keeps it."""
        url = f"{self._access.url.rstrip('/')}/studies/{study}/series/{series}/instances/{instance}"
        while True:
            try:
                content = self._query(retrieve, self._session, url, self._accept[0])
                break
            except Refused as error:
                if error.status not in NOT_ACCEPTABLE or len(self._accept) == 1:
                    raise
                self._accept.pop(0)
        try:
            return checked(content, instance)
        except ValueError as error:
            raise ValueError(f"{self._access.url} answers otherwise than DICOMweb does: {error}") from error

    def _query(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return query(self._access, self._notify, call, *arguments, **options)

    def _send(self, batch: Sequence[Instance]) -> dict[str, str]:
        """Store a batch; after an interruption only what has not arrived is sent again. Returns refusals."""
        backoff = Backoff(self._access, self._notify)
        left = list(batch)
        while left:
            try:
                answer = attempt(self._access, self._client.store_instances, [item.read() for item in left])
            except Unavailable as trouble:
                backoff.wait(str(trouble))
                present = self._present(left)
                left = [item for item in left if item.uid not in present]
            else:
                return _refusals(answer)
        return {}


def _value(item: Any, tag: str) -> str:
    """The first value of an attribute in DICOM's JSON; what is not that JSON is no answer of a DICOMweb service."""
    if not isinstance(item, Mapping):
        raise ValueError(
            "the archive does not answer as DICOMweb does; check the address (of an Orthanc it ends in /dicom-web)"
        )
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _check_uids(*uids: str | None) -> None:
    """Raise ValueError for what is no UID; they become names of folders."""
    for uid in uids:
        if uid is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid):
            raise ValueError(f"{uid!r} is no UID (digits and dots)")


def _refusals(answer: Dataset) -> dict[str, str]:
    """Which instances the archive did not store, and why, as DICOM codes it."""
    refused = {}
    for item in answer.get("FailedSOPSequence") or []:
        reason = item.get("FailureReason")
        code = f"code {int(reason):04X}h" if reason is not None else "no reason told"
        refused[str(item.get("ReferencedSOPInstanceUID") or "")] = f"the archive refused it ({code})"
    return refused
