"""Archives that speak DICOMweb: find instances (QIDO-RS), fetch them (WADO-RS), store them (STOW-RS).

What the archive holds is asked before anything is sent, and again after every interruption: an instance is never sent
twice, whatever died in between, and a transfer that was broken off goes on when it is started again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from mper.dicom.headers import first_line, no_warnings
from mper.progress import Notify, Progress, Report, ignore_notice, ignore_progress
from mper.utils.files import check_file, is_dicom_file, write_atomically

_BATCH_BYTES, _BATCH_COUNT = 16 << 20, 25  # of one request
_TIMEOUT_S = (10.0, 120.0)  # to connect, to hear something
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0
_LATER = (408, 429, 502, 503, 504)  # HTTP: not now
_STUDY, _SERIES, _INSTANCE, _MODALITY, _DESCRIPTION = "0020000D", "0020000E", "00080018", "00080060", "0008103E"


@dataclass(frozen=True)
class Access:
    """Where an archive is, and who asks.

    Parameters
    ----------
    url : str
        Of its DICOMweb service, for example ``https://pacs.hospital.org/dicom-web``.
    login : (str, str) or None
        User and password (HTTP basic).
    token : str or None
        Bearer token.
    ca : Path or None
        Certificates (PEM) to trust instead of the usual ones.
    plain_http : bool
        Whether patient data may go unencrypted to another machine.
    patience_s : float
        How long an archive that does not answer is waited for.

    Raises
    ------
    ValueError
        If the address is none, holds a password, or is unencrypted and on another machine without `plain_http`.
    FileNotFoundError
        If there is no file `ca`.
    """

    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    plain_http: bool = False
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"{self.url!r} is no address of an archive; expected https://HOST/dicom-web")
        if parts.username or parts.password:
            raise ValueError("the address holds a user or password; keep them in a file (--login-file) instead")
        if parts.scheme == "http" and not self.plain_http and not self.is_local:
            raise ValueError(
                f"{self.url} is not encrypted, so patient data and password could be read on the way; use https://, "
                "or say that the network may be trusted (--plain-http)"
            )
        if self.ca is not None:
            check_file(self.ca)

    @property
    def is_local(self) -> bool:
        """Whether the archive is on this machine."""
        host = urlsplit(self.url).hostname or ""
        with contextlib.suppress(ValueError):
            return ip_address(host).is_loopback
        return host == "localhost"


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
        Hears when the archive is waited for.
    """

    def __init__(self, access: Access, notify: Notify = ignore_notice):
        from dicomweb_client import DICOMwebClient

        self._access = access
        self._notify = notify
        self._client = DICOMwebClient(
            access.url.rstrip("/"), session=_session(access), timeout=_TIMEOUT_S, permissive_uid=True
        )
        # The client would send again without asking what has arrived.
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
        waiting = _instances(paths, self._notify)
        total = len(waiting)
        report(Progress("asking the archive", 0.0))
        there = self._present(waiting)
        already = len(there)
        waiting = [item for item in waiting if item.uid not in there]
        everything = list(waiting)
        failed: dict[str, str] = {}
        while waiting:
            report(Progress(f"sending to the archive ({total - len(waiting)} of {total})", 1 - len(waiting) / total))
            batch = _batch(waiting)
            try:
                failed |= self._send(batch)
            except ConnectionError as error:
                raise type(error)(
                    f"{error}; {total - len(waiting)} of {total} instances are there: run the command again, "
                    "what has arrived is not sent twice"
                ) from error
            waiting = waiting[len(batch) :]
        arrived = self._present(everything) if everything else set()
        for item in everything:
            if item.uid not in arrived:
                failed.setdefault(item.uid, "the archive took it and does not list it")
        report(Progress("sent", 1.0))
        return PushSummary(len(everything) - len(failed), already, failed)

    def find_study(self, accession: str) -> str:
        """The StudyInstanceUID of an accession number.

        Raises
        ------
        ValueError
            If the archive has no such study, or several.
        """
        found = self._ask(self._client.search_for_studies, search_filters={"AccessionNumber": accession}, limit=10)
        uids = sorted({_value(item, _STUDY) for item in found})
        if len(uids) != 1:
            told = f"{len(uids)} studies ({', '.join(uids)}); name one with --study" if uids else "no study"
            raise ValueError(f"{self._access.url} has {told} of accession number {accession!r}")
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
        found = self._ask(self._client.search_for_series, study)
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

    def _present(self, items: Iterable[_Instance]) -> set[str]:
        """Which of the instances the archive has."""
        found: set[str] = set()
        for study, series in sorted({(item.study, item.series) for item in items}):
            filters = {"StudyInstanceUID": study}
            if self._ask(self._client.search_for_studies, search_filters=filters, limit=1):
                found |= self._list(study, series)
        return found & {item.uid for item in items}

    def _list(self, study: str, series: str) -> set[str]:
        """The instances of a series; page by page, as archives may answer with a part."""
        found: set[str] = set()
        offset = 0
        while True:
            try:
                page = self._ask(self._client.search_for_instances, study, series, offset=offset)
            except _Missing:  # some archives answer so for an empty list
                return found
            new = {_value(item, _INSTANCE) for item in page} - found
            if not new:
                return found
            found |= new
            offset += len(page)

    def _fetch(self, study: str, series: str, instance: str) -> bytes:
        """One instance as a file, in the transfer syntax in which the archive keeps it."""
        dataset = self._ask(self._client.retrieve_instance, study, series, instance)
        if str(dataset.get("SOPInstanceUID")) != instance:
            raise ValueError(f"{self._access.url} sent another instance than {instance}")
        stream = BytesIO()
        with no_warnings():
            dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    def _send(self, batch: Sequence[_Instance]) -> dict[str, str]:
        """Store a batch; after an interruption only what has not arrived is sent again. Returns refusals."""
        patience = _Patience(self._access, self._notify)
        left = list(batch)
        while left:
            try:
                answer = self._once(self._client.store_instances, [item.read() for item in left])
            except _NotNow as trouble:
                patience.wait(str(trouble))
                there = self._present(left)
                left = [item for item in left if item.uid not in there]
            else:
                return _refusals(answer)
        return {}

    def _ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer to a question, which can be asked again without harm."""
        patience = _Patience(self._access, self._notify)
        while True:
            try:
                return self._once(call, *arguments, **options)
            except _NotNow as trouble:
                patience.wait(str(trouble))

    def _once(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """One attempt; raises _NotNow where another may help, else an error in words."""
        import requests

        url = self._access.url
        try:
            with no_warnings():
                return call(*arguments, **options)
        except requests.exceptions.SSLError as error:
            raise ConnectionError(
                f"{url} cannot be trusted: its certificate is not known here ({_reason(error)}); "
                "give the hospital's certificates with --ca FILE"
            ) from error
        except requests.exceptions.TooManyRedirects as error:
            raise ConnectionError(f"{url} sends elsewhere; give the address of the DICOMweb service itself") from error
        except requests.exceptions.HTTPError as error:
            if error.response is None:
                raise _NotNow("does not answer") from error
            return self._after(error.response, error)
        except requests.exceptions.InvalidJSONError as error:
            raise self._no_dicomweb() from error
        except requests.exceptions.RequestException as error:
            raise _NotNow(f"does not answer ({_reason(error)})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{url} answers otherwise than DICOMweb does ({first_line(error)})") from error

    def _after(self, response: Any, error: Exception) -> Any:
        """What a refusal means: an answer after all, or an error in words."""
        url, status = self._access.url, response.status_code
        if status in _LATER:
            raise _NotNow(f"answers {status}") from error
        if status in (401, 403):
            who = "the login" if self._access.login or self._access.token else "requests without login"
            raise PermissionError(
                f"{url} refuses {who} ({status}); check user and password (--login-file) or token (--token-file)"
            ) from error
        if status == 409:  # STOW-RS: nothing was stored, and why
            with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
                return Dataset.from_json(response.json())
        if status in (404, 405):
            raise _Missing(str(self._no_dicomweb())) from error
        raise ValueError(
            f"{url} answers {status} {response.reason}; check the address (of an Orthanc it ends in /dicom-web), "
            "or ask who runs the archive"
        ) from error

    def _no_dicomweb(self) -> ValueError:
        return ValueError(
            f"{self._access.url} does not speak DICOMweb; check the address (of an Orthanc it ends in /dicom-web)"
        )


@dataclass(frozen=True)
class _Instance:
    """A DICOM file that is to be stored."""

    path: Path
    study: str
    series: str
    uid: str

    def read(self) -> Dataset:
        with no_warnings():
            return pydicom.dcmread(self.path)


class _NotNow(Exception):
    """The archive does not answer, or says that it cannot now."""


class _Missing(ValueError):
    """The archive knows nothing under that address."""


class _Patience:
    """Waits, longer each time, until it is used up."""

    def __init__(self, access: Access, notify: Notify):
        self._access = access
        self._notify = notify
        self._begin = time.monotonic()
        self._wait_s = _FIRST_WAIT_S

    def wait(self, trouble: str) -> None:
        if self._wait_s == _FIRST_WAIT_S:
            self._notify(f"the archive {trouble}; trying again for up to {self._access.patience_s:.0f} s")
        if time.monotonic() - self._begin + self._wait_s > self._access.patience_s:
            raise ConnectionError(f"{self._access.url} {trouble}, tried for {self._access.patience_s:.0f} s")
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


def _session(access: Access) -> Any:
    import requests
    from requests.auth import AuthBase, HTTPBasicAuth

    class Bearer(AuthBase):  # type: ignore[misc, unused-ignore]
        def __call__(self, request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {access.token}"
            return request

    session = requests.Session()
    session.trust_env = not access.is_local  # no proxy on the way to this machine
    session.verify = str(access.ca) if access.ca else True
    session.max_redirects = 0  # a redirected upload would arrive as something else, or with somebody else
    if access.token:
        session.auth = Bearer()
    elif access.login:
        session.auth = HTTPBasicAuth(*(text.encode("utf-8") for text in access.login))
    return session


def _instances(paths: Sequence[Path], notify: Notify) -> list[_Instance]:
    """The instances in files and folders, each once."""
    found: dict[str, _Instance] = {}
    for path, named in _files(paths):
        instance = _instance(path, named)
        if instance is None:
            continue
        other = found.setdefault(instance.uid, instance)
        if other is instance or other.path.samefile(path):
            continue
        if other.path.read_bytes() != path.read_bytes():
            raise ValueError(f"{other.path} and {path} claim to be the same instance and differ; send one of them")
        notify(f"{path} is the same instance as {other.path} and is sent once")
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))} holds no DICOM file")
    return list(found.values())


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The files, and whether each was named itself."""
    for path in paths:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.rglob("*")) if file.is_file())
        else:
            check_file(path)
            yield path, True


def _instance(path: Path, named: bool) -> _Instance | None:
    """What a file is; None for what is found in a folder and is not a DICOM instance."""
    try:
        with no_warnings():
            dataset = pydicom.dcmread(path, stop_before_pixels=True) if is_dicom_file(path) else None
            uids = (
                [str(dataset.get(f"{what}InstanceUID") or "") for what in ("Study", "Series", "SOP")] if dataset else []
            )
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise ValueError(
            f"{path} is damaged, or no whole DICOM file ({first_line(error)}); nothing was sent"
        ) from error
    is_index = dataset is not None and dataset.get("SOPClassUID", "") in ("", MediaStorageDirectoryStorage)
    if dataset is None or is_index:
        if named:
            raise ValueError(f"{path} is not a DICOM instance; nothing was sent")
        return None
    if not all(uids):
        raise ValueError(f"{path} does not tell its study, series and instance; nothing was sent")
    return _Instance(path, *uids)


def _batch(waiting: Sequence[_Instance]) -> list[_Instance]:
    """The next instances for one request: at least one, of one study."""
    batch: list[_Instance] = []
    size = 0
    for item in waiting[:_BATCH_COUNT]:
        size += item.path.stat().st_size
        if batch and (size > _BATCH_BYTES or item.study != batch[0].study):
            break
        batch.append(item)
    return batch


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
        told = f"code {int(reason):04X}h" if reason is not None else "no reason told"
        refused[str(item.get("ReferencedSOPInstanceUID") or "")] = f"the archive refused it ({told})"
    return refused


def _reason(error: Exception) -> str:
    """The innermost words of a network error, without addresses that it repeats."""
    inner: BaseException = error
    while inner.__context__ is not None or inner.__cause__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return (getattr(inner, "strerror", None) or first_line(inner if isinstance(inner, Exception) else error)).strip(
        "'\". "
    )
