"""``mper serve``: the engine, for 3D Slicer and for scripts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mper.cli.console import print_message
from mper.cli.options import Commands, add_command
from mper.utils.errors import OK, UsageError

_TEXT = """\
Run the engine that 3D Slicer's modules and scripts use over HTTP; mper/engine/PROTOCOL.md is a guide for clients. The
first line on stdout is JSON: the port, and the token where none is given by the environment variable MPER_TOKEN or in
a file.

Only datasets below the folders given as --root are read and written. An engine that other machines can reach requires
a token file (each line is a client: its name and a token) and TLS.
"""
_EXAMPLES = """\
  mper serve --root datasets
  mper serve --host 0.0.0.0 --port 8443 --root /srv/mper --token-file tokens --tls-cert cert.pem --tls-key key.pem
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "serve", "run the engine behind the Slicer modules", _TEXT, _EXAMPLES)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    command.add_argument("--port", type=_port, default=0, metavar="N", help="default: a free one, printed on stdout")
    command.add_argument(
        "--root", action="append", type=Path, default=[], metavar="DIR", help="a folder of datasets (repeatable)"
    )
    command.add_argument("--token-file", type=Path, metavar="FILE", help="clients: in each line a name and a token")
    command.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM)")
    command.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    command.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.engine.server import Options, serve

    try:
        options = Options(
            arguments.host,
            arguments.port,
            arguments.root,
            arguments.token_file,
            arguments.tls_cert,
            arguments.tls_key,
            arguments.with_parent,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    for line in options.warnings():
        print_message(f"mper: warning: {line}")
    serve(options)
    sys.stdout.flush()
    os._exit(OK)  # a job may still compute in torch, which nothing can interrupt and which would crash as Python ends


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a whole number from 0 to 65535")
    return int(text)
