"""``mper push`` and ``mper pull``: to and from an archive (PACS) over DICOMweb."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli.console import Bar, print_error, print_json, print_note, print_result
from mper.cli.options import Commands, add_command, seconds
from mper.utils.errors import FAILED, OK, UsageError
from mper.utils.files import read_written

if TYPE_CHECKING:
    from mper.dicom.dicomweb import Archive

LOGIN_VARIABLE, TOKEN_VARIABLE = "MPER_DICOMWEB_LOGIN", "MPER_DICOMWEB_TOKEN"

_ABOUT_LOGIN = f"""\
The login is read from a file (--login-file: one line USER:PASSWORD; --token-file: one line, a bearer token) or from the
environment variable {LOGIN_VARIABLE} or {TOKEN_VARIABLE}, never on the command line. The connection is encrypted
(https) unless the archive is on this machine or --plain-http is given.
"""
_PUSH = f"""\
Send DICOM files to an archive (STOW-RS). The archive is queried before, and again after every interruption: no instance
is sent twice, and a transfer that was interrupted continues when the command is run again.

{_ABOUT_LOGIN}"""
_PUSH_EXAMPLES = """\
  mper push seg.dcm --dicomweb https://pacs.hospital.org/dicom-web --login-file pacs.txt
  mper push results --dicomweb http://127.0.0.1:8042/dicom-web
"""
_PULL = f"""\
Fetch a study, or one series of it, from an archive (QIDO-RS, WADO-RS) into FOLDER/<series UID>/. Files that are there
stay, so that a transfer that was interrupted continues when the command is run again.

{_ABOUT_LOGIN}"""
_PULL_EXAMPLES = """\
  mper pull study --study 1.2.840.113619.2.5 --dicomweb https://pacs.hospital.org/dicom-web --token-file token.txt
  mper pull study --accession A123 --dicomweb URL && mper segment study seg.dcm && mper push seg.dcm --dicomweb URL
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "push", "send DICOM files to an archive", _PUSH, _PUSH_EXAMPLES)
    command.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER", help="what to send")
    _add_access(command)
    command.set_defaults(run=run_push)

    command = add_command(commands, "pull", "fetch a study from an archive", _PULL, _PULL_EXAMPLES)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes; made where it is missing")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--study", metavar="UID", help="the study's StudyInstanceUID")
    which.add_argument("--accession", metavar="NUMBER", help="the study's accession number")
    command.add_argument("--series", metavar="UID", help="only this series")
    _add_access(command)
    command.set_defaults(run=run_pull)


def _add_access(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dicomweb", metavar="URL", required=True, help="the archive's DICOMweb service")
    who = command.add_mutually_exclusive_group()
    who.add_argument("--login-file", type=Path, metavar="FILE", help="a file with one line USER:PASSWORD")
    who.add_argument("--token-file", type=Path, metavar="FILE", help="a file with a bearer token")
    command.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates (PEM) to trust, of a hospital's own kind"
    )
    command.add_argument(
        "--plain-http", action="store_true", help="send patient data unencrypted, in a network that can be trusted"
    )
    command.add_argument(
        "--patience",
        type=seconds,
        metavar="TIME",
        default=60.0,
        help="how long to wait for an archive that does not answer (default: 60s)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")


def run_push(arguments: argparse.Namespace) -> int:
    with _quiet(arguments.json), Bar(shown=not arguments.json) as bar:
        done = _archive(arguments).push(arguments.paths, bar)
    for uid, reason in done.failed.items():
        print_error(f"{uid}: {reason}")
    if arguments.json:
        print_json({"sent": done.sent, "already": done.already, "failed": dict(done.failed)})
    else:
        present = f", {done.already} were there already" if done.already else ""
        failed = f", {len(done.failed)} not stored" if done.failed else ""
        print_result(f"{arguments.dicomweb}: {done.sent} instances sent{present}{failed}")
    return FAILED if done.failed else OK


def run_pull(arguments: argparse.Namespace) -> int:
    with _quiet(arguments.json), Bar(shown=not arguments.json) as bar:
        archive = _archive(arguments)
        study = arguments.study or archive.find_study(arguments.accession)
        pulled = archive.pull(study, arguments.folder, arguments.series, bar)
    series: list[dict[str, Any]] = [
        {
            "series": one.uid,
            "modality": one.modality,
            "description": one.description,
            "images": one.images,
            "fetched": one.fetched,
            "folder": str(one.folder),
        }
        for one in pulled
    ]
    if arguments.json:
        print_json({"study": study, "series": series})
    else:
        for one in pulled:
            print_result(
                f"{one.folder}: {one.modality} {one.description!r}, {one.images} images, {one.fetched} of them new"
            )
    return OK


def _quiet(json: bool) -> contextlib.AbstractContextManager[object]:
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()


def _archive(arguments: argparse.Namespace) -> Archive:
    from mper.dicom.dicomweb import Access, Archive

    login = _secret(arguments.login_file, None if arguments.token_file else LOGIN_VARIABLE)
    token = _secret(arguments.token_file, None if login else TOKEN_VARIABLE)
    user, colon, password = (login or "").partition(":")
    if login and not colon:
        raise UsageError(f"a login is written USER:PASSWORD; {arguments.login_file or LOGIN_VARIABLE} holds no colon")
    try:
        access = Access(
            arguments.dicomweb,
            login=(user, password) if login else None,
            token=token,
            ca=arguments.ca,
            plain_http=arguments.plain_http,
            patience_s=arguments.patience,
        )
    except ValueError as error:  # the address
        raise UsageError(error.args[0]) from error
    return Archive(access, print_note)


def _secret(path: Path | None, variable: str | None) -> str | None:
    """The first line of a file, else an environment variable."""
    if path is None:
        return os.environ.get(variable) or None if variable else None
    lines = read_written(path).splitlines()
    if not lines or not lines[0].strip():
        raise UsageError(f"{path} is empty; its first line should be the login or token")
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        print_note(f"other users of this computer can read {path}; chmod 600 keeps it yours")
    return lines[0].strip()
