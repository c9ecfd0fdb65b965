"""The command line: ``mper COMMAND ...``.

One file a group of commands, each with ``add`` (its arguments and help) and ``run`` (its work, with the
heavy imports). Exit codes: 0 all good, 1 something failed, 2 wrong usage, 3 cancelled.
Imports: everything below it, where a command needs it; nothing imports it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mper import __version__
from mper.cli import (
    benchmark,
    cluster,
    datasets,
    demo,
    dicom,
    dicomweb,
    doctor,
    evaluate,
    exclude,
    export_dataset,
    holdout,
    measure,
    models,
    refine,
    region,
    runs,
    segment,
    serve,
    stage,
    train,
)
from mper.progress import Cancelled
from mper.utils.coded import line_codes
from mper.utils.errors import CANCELLED, FAILED, OK, USAGE, exit_code, explain

_BOX = "-40,60,-30,70,-20,50"
_GROUPS = (
    demo,
    segment,
    refine,
    measure,
    dicom,
    dicomweb,
    models,
    datasets,
    region,
    exclude,
    holdout,
    export_dataset,
    train,
    evaluate,
    benchmark,
    runs,
    cluster,
    serve,
    stage,
    doctor,
)

_CODES = "MPER_ERROR_CODES"  # set by a program that says errors in its own words: their codes come first, as JSON
_ABOUT = """\
Segment medical images with few labels: multi-prototype embedding refinement (MPER).

Start here:
  mper demo                             try it on the sample scan
  mper segment scan.nrrd mask.seg.nrrd  segment the left atrium of your own LGE-MRI
  mper doctor                           see what this machine can do
"""

_END = """\
`mper COMMAND --help` explains a command and shows examples.
Exit codes: 0 all good, 1 something failed, 2 wrong usage, 3 cancelled.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose options may stand anywhere."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class, which does not take the words of one argument from both sides of an option."""
        if args is None or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        found, unknown = super().parse_known_args(self._words_before_options(args), namespace)
        if unknown:  # here and not by the parser of all commands, so that the error names the help of this command
            self.error(f"unrecognized arguments: {' '.join(word for word in args if word in unknown)}")
        return found, unknown

    def _words_before_options(self, words: Sequence[str]) -> list[str]:
        takes = {name: action.nargs for action in self._actions for name in action.option_strings}
        plain: list[str] = []
        options: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                return [*options, "--", *plain, *rest]
            if not _is_option(word):
                plain.append(word)
                continue
            options.append(word)
            count = takes.get(word, 0)  # 0: --name=value, or unknown
            left = count if isinstance(count, int) else 1 if count in (None, "?") else len(rest)
            while left and rest and not _is_option(rest[0]):
                options.append(rest.pop(0))
                left -= 1
        return [*plain, *options]

    def error(self, message: str) -> NoReturn:
        if "expected one argument" in message:
            boxes = [(option, _BOX) for option in ("--roi", "--set", "--region")]
            others = [("--at", "-12.5,40,85"), ("--spacing", "2.5,1,1"), ("--budget", "20m"), ("--patience", "20m")]
            for option, example in (*boxes, *others):
                if f"{option}:" in message:
                    message += f"; write it with an equals sign: {option}={example}"
        self.exit(USAGE, f"mper: error: {' '.join(message.split())} (see `{self.prog} --help`)\n")


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+|-\d*\.\d+", word)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="mper",
        description=_ABOUT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"mper {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for group in _GROUPS:
        group.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` are the words after ``mper``, those of the process by default.

    Returns
    -------
    int
        The exit code: 0 all good, 1 something failed, 2 wrong usage, 3 cancelled.
    """
    if argv is None:
        _prepare_process()
    try:
        arguments = parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: help, version, wrong usage
        return stop.code if isinstance(stop.code, int) else OK
    except (Cancelled, KeyboardInterrupt) as stop:
        _last_word(f"mper: cancelled{f': {stop}' if str(stop) else ''}")
        return CANCELLED
    except BrokenPipeError:  # whoever read the answer (head, a closed window) has had enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except BaseException as error:
        line = explain(error)
        if os.environ.get(_CODES) and (codes := line_codes(line)):
            _last_word(json.dumps({"error": line, "line_codes": codes}))
        _last_word(f"mper: error: {line}")
        return exit_code(error)


def _prepare_process() -> None:
    """What holds for a process of its own, and would disturb a program that calls `main`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console of an old code page shows ? where it lacks a character
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an orderly end, as by Ctrl-C


def _last_word(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
