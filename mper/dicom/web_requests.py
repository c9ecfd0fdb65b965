"""Requests to a DICOMweb archive: address and login, repeated attempts, and errors in words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.dataset import Dataset

from mper.dicom.headers import no_warnings
from mper.progress import Notify
from mper.utils.coded import Coded, line_of
from mper.utils.files import check_file
from mper.utils.text import first_line

TIMEOUT_S = (10.0, 120.0)  # to connect, and between two pieces of an answer
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0
_TRY_LATER = (408, 429, 502, 503, 504)  # HTTP status


@dataclass(frozen=True)
class Access:
    """The address of an archive, and the login.

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
        How long an archive that does not answer is tried again.

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
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                Coded(
                    f"{self.url!r} is no address of an archive; expected https://HOST/dicom-web",
                    "no-archive-address",
                    url=self.url,
                )
            )
        if parts.username or parts.password:
            raise ValueError(
                Coded(
                    "the address holds a user or password; keep them in a file (--login-file) instead",
                    "login-in-address",
                )
            )
        if parts.scheme == "http" and not self.plain_http and not self.is_local:
            raise ValueError(
                Coded(
                    f"{self.url} is not encrypted, so patient data and password could be read on the way; use "
                    "https://, or say that the network may be trusted (--plain-http)",
                    "archive-not-encrypted",
                    url=self.url,
                )
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

    def session(self) -> Any:
        """A session of `requests` with this login and these certificates."""
        import requests
        from requests.auth import AuthBase, HTTPBasicAuth

        token = self.token

        class Bearer(AuthBase):  # type: ignore[misc, unused-ignore]
            def __call__(self, request: Any) -> Any:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

        session = requests.Session()
        session.trust_env = not self.is_local  # no proxy on the way to this machine
        session.verify = str(self.ca) if self.ca else True
        session.max_redirects = 0  # a redirected upload would arrive as something else, or with somebody else
        if token:
            session.auth = Bearer()
        elif self.login:
            session.auth = HTTPBasicAuth(*(text.encode("utf-8") for text in self.login))
        return session


class Unavailable(Exception):
    """The archive does not answer, or says that it cannot now."""


class NotFound(ValueError):
    """The archive has nothing at that address."""


class Refused(ValueError):
    """The archive answers a request with an error; `status` is that of HTTP."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Backoff:
    """Waits longer each time, until the patience of an `Access` is used up."""

    def __init__(self, access: Access, notify: Notify):
        self._access = access
        self._notify = notify
        self._begin = time.monotonic()
        self._wait_s = _FIRST_WAIT_S

    def wait(self, trouble: str) -> None:
        """Wait once more; raises ConnectionError where that would take too long."""
        if self._wait_s == _FIRST_WAIT_S:
            self._notify(f"the archive {trouble}; trying again for up to {self._access.patience_s:.0f} s")
        if time.monotonic() - self._begin + self._wait_s > self._access.patience_s:
            raise ConnectionError(
                Coded(
                    f"{self._access.url} {trouble}, tried for {self._access.patience_s:.0f} s",
                    "archive-silent",
                    url=self._access.url,
                )
            )
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


def query(access: Access, notify: Notify, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The answer to a request that can be repeated without harm.

    Raises
    ------
    ConnectionError, PermissionError, ValueError
        As `attempt`; ConnectionError also where the archive does not answer for too long.
    """
    backoff = Backoff(access, notify)
    while True:
        try:
            return attempt(access, call, *arguments, **options)
        except Unavailable as trouble:
            backoff.wait(str(trouble))


def attempt(access: Access, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The answer to one request.

    Raises
    ------
    Unavailable
        If another attempt may help.
    ConnectionError
        If the archive cannot be trusted.
    PermissionError
        If it refuses the login.
    NotFound, Refused, ValueError
        If it answers with an error, or otherwise than DICOMweb does.
    """
    import requests

    url = access.url
    try:
        with no_warnings():
            return call(*arguments, **options)
    except requests.exceptions.SSLError as error:
        raise ConnectionError(
            Coded(
                f"{url} cannot be trusted: its certificate is not known here ({_reason(error)}); "
                "give the hospital's certificates with --ca FILE",
                "certificate-unknown",
                url=url,
            )
        ) from error
    except requests.exceptions.TooManyRedirects as error:
        raise ConnectionError(
            Coded(
                f"{url} sends elsewhere; give the address of the DICOMweb service itself", "archive-elsewhere", url=url
            )
        ) from error
    except requests.exceptions.HTTPError as error:
        if error.response is None:
            raise Unavailable("does not answer") from error
        return _refusal(access, error.response, error)
    except requests.exceptions.InvalidJSONError as error:
        raise _no_dicomweb(access) from error
    except requests.exceptions.RequestException as error:
        raise Unavailable(f"does not answer ({_reason(error)})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            Coded(f"{url} answers otherwise than DICOMweb does ({first_line(error)})", "no-dicomweb", url=url)
        ) from error


def _refusal(access: Access, response: Any, error: Exception) -> Any:
    """What an HTTP error means: an answer after all, or an error in words."""
    url, status = access.url, response.status_code
    if status in _TRY_LATER:
        raise Unavailable(f"answers {status}") from error
    if status in (401, 403):
        who = "the login" if access.login or access.token else "requests without login"
        raise PermissionError(
            Coded(
                f"{url} refuses {who} ({status}); check user and password (--login-file) or token (--token-file)",
                "login-refused",
                url=url,
            )
        ) from error
    if status == 409:  # STOW-RS: nothing was stored, and why
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            return Dataset.from_json(response.json())
    if status in (404, 405):
        raise NotFound(line_of(_no_dicomweb(access))) from error
    reason = _own_words(response)
    said = f"{status} {response.reason}{reason}"
    line = f"{url} answers {said}; check the address (of an Orthanc it ends in /dicom-web), or ask who runs the archive"
    raise Refused(Coded(line, "archive-refuses", url=url, answer=said), status) from error


def _own_words(response: Any) -> str:
    """What an archive says of its refusal, if that is one short text."""
    text = " ".join(str(response.text).split())
    return f" ({text})" if 0 < len(text) <= 200 and "<" not in text else ""


def _no_dicomweb(access: Access) -> ValueError:
    return ValueError(
        Coded(
            f"{access.url} does not speak DICOMweb; check the address (of an Orthanc it ends in /dicom-web)",
            "no-dicomweb",
            url=access.url,
        )
    )


def _reason(error: Exception) -> str:
    """The innermost words of a network error, without addresses that it repeats."""
    inner: BaseException = error
    while inner.__context__ is not None or inner.__cause__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return (getattr(inner, "strerror", None) or first_line(inner if isinstance(inner, Exception) else error)).strip(
        "'\". "
    )
