"""One instance fetched over WADO-RS, from archives that keep to the standard and from those that nearly do.

The standard wants a multipart answer. Some archives send the file alone, refuse requests that do not accept every
transfer syntax, or write multipart messages loosely (lower-case headers, text before the first part, no last line end).
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import pydicom

from mper.dicom.headers import no_warnings
from mper.dicom.web_requests import TIMEOUT_S

# What is asked for, until one is not refused: in the archive's own transfer syntax, so that nothing is transcoded.
ACCEPTED = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
    "application/dicom; transfer-syntax=*",
    "application/dicom",
)
NOT_ACCEPTABLE = (400, 406, 415)  # HTTP status


def retrieve(session: Any, url: str, accept: str) -> bytes:
    """The file of an instance, byte for byte as the archive sends it.

    Parameters
    ----------
    session : requests.Session
    url : str
        Of the instance.
    accept : str
        One of `ACCEPTED`.

    Raises
    ------
    requests.exceptions.RequestException
        If there is no answer, or one that is an error.
    ValueError
        If the answer holds no DICOM file.
    """
    response = session.get(url, headers={"Accept": accept}, timeout=TIMEOUT_S)
    response.raise_for_status()
    parts = split_parts(response.content, response.headers.get("Content-Type", ""))
    files = [part for part in parts if part[128:132] == b"DICM"] or [part for part in parts if part]
    if len(files) != 1:
        raise ValueError(f"one DICOM file was expected, it sent {len(files)}")
    return files[0]


def split_parts(body: bytes, content_type: str) -> list[bytes]:
    """The contents of a multipart message without their headers; the whole body where it is none."""
    boundary = re.search(r'boundary="?([^";,\s]+)', content_type, re.IGNORECASE)
    if not content_type.lower().lstrip().startswith("multipart/") or body[128:132] == b"DICM":
        return [body]
    first_line = re.search(rb"(?:\A|\n)--([^\r\n]+)\r?\n", body)
    marker = boundary.group(1).encode() if boundary else first_line.group(1).strip() if first_line else b""
    if not marker or b"--" + marker not in body:
        return [body]
    parts = []
    for piece in body.split(b"--" + marker)[1:]:
        if piece.startswith(b"--"):  # the end; what follows belongs to no part
            break
        end = re.search(rb"\r?\n\r?\n", piece)
        content = piece[end.end() :] if end else b""
        # The line end before a marker belongs to the marker. DICOM files have an even number of bytes.
        parts.append(content.removesuffix(b"\r\n") if len(content) % 2 == 0 else content.removesuffix(b"\n"))
    return parts


def checked(content: bytes, uid: str) -> bytes:
    """`content` as a DICOM file of that SOPInstanceUID, with a preamble.

    Raises
    ------
    ValueError
        If it is another instance, or no DICOM.
    """
    with no_warnings():
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True)
            own = str(dataset.get("SOPInstanceUID") or "")
        except Exception as error:  # a damaged file can fail anywhere in the parser
            raise ValueError(f"it sent a damaged file for the instance {uid} ({type(error).__name__})") from error
        if own != uid:
            raise ValueError(f"it sent another instance than {uid}" if own else f"it sent no DICOM file for {uid}")
        if content[128:132] == b"DICM":
            return content
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()
