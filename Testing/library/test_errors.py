"""Every error is one line and an exit code; help stays light."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mper.cli import main, models
from mper.progress import Cancelled
from mper.utils import errors
from mper.utils.errors import CANCELLED, FAILED, USAGE, UsageError, explain

PATIENT = "Mustermann, Erika"


@pytest.fixture(autouse=True)
def own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs go to a folder of the test."""
    folder = tmp_path / "logs"
    monkeypatch.setattr(errors, "log_folder", lambda: folder)
    return folder


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def raising(error: BaseException) -> Callable[..., int]:
    def run(_: object) -> int:
        raise error

    return run


def run_models(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """`mper models`, in which `error` happens."""
    monkeypatch.setattr(models, "run", raising(error))
    return main(["models"])


def test_a_message_of_our_own_is_shown_as_it_is() -> None:
    from mper.volume import Geometry

    error = caught(lambda: Geometry.unknown((0, 1, 1)))
    assert explain(error) == str(error)


def test_a_fault_of_the_program_is_logged_and_the_line_says_where(own_log: Path) -> None:
    line = explain(caught(lambda: np.zeros(3).reshape(2, 2)))  # a ValueError, but not one with words for people
    assert "an internal error" in line and str(own_log / "mper.log") in line and "\n" not in line
    assert "test_errors.py" in (own_log / "mper.log").read_text(encoding="utf-8")


def test_the_log_holds_positions_and_no_patient_data(own_log: Path) -> None:
    def outer() -> None:
        try:
            {}[f"/home/{PATIENT}/scan.nrrd"]
        except KeyError as error:
            raise TypeError(f"the name is {PATIENT}") from error

    explain(caught(outer))
    log = (own_log / "mper.log").read_text(encoding="utf-8")
    assert PATIENT not in log and "builtins.TypeError" in log and "builtins.KeyError" in log
    assert str(Path.home()) not in log and " outer" in log


def test_the_log_does_not_grow_for_ever(own_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_LOG_LIMIT", 2000)
    for _ in range(100):
        explain(caught(lambda: [][0]))
    assert sum(path.stat().st_size for path in own_log.iterdir()) < 6000
    assert {path.name for path in own_log.iterdir()} == {"mper.log", "mper.log.1"}


def test_a_log_that_cannot_be_written_does_not_hide_the_error(own_log: Path) -> None:
    own_log.write_text("a file where the folder should be", encoding="utf-8")
    line = explain(caught(lambda: [][0]))
    assert "IndexError" in line and "it could not be logged" in line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "mask.nrrd"), "mask.nrrd: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "mask.nrrd"), "mask.nrrd: permission denied"),
        (FileNotFoundError("scan.nrrd does not exist"), "scan.nrrd does not exist"),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "pip install h5py"),
        (UsageError("give two\nthings"), "give two things"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_of_the_machine_say_what_is_meant(error: BaseException, words: str) -> None:
    line = explain(caught(lambda: raising(error)(None)))
    assert words in line and "\n" not in line and "Errno" not in line


def test_a_full_disk_under_our_own_words_is_still_named() -> None:
    error = OSError("cannot write mask.nrrd: No space left on device")
    error.errno = errno.ENOSPC
    assert explain(error) == "cannot write mask.nrrd: No space left on device (the disk is full)"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("wrong"), FAILED),
        (OSError(errno.ENOSPC, "No space left on device", "x"), FAILED),
        (MemoryError(), FAILED),
        (UsageError("wrong"), USAGE),
        (Cancelled("the run is kept"), CANCELLED),
        (KeyboardInterrupt(), CANCELLED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_end_has_its_exit_code_and_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_models(monkeypatch, error) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mper: ") and said.err.count("\n") == 1 and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "COMMAND"),
        (["segmnt"], "segment"),
        (["segment"], "there is no scan"),
        (["segment", "scan.nrrd", "out.nrrd", "--roi", "-3,4,5,6,7,8"], "--roi=-40,60"),
        (["segment", "scan.nrrd", "out.nrrd", "--roi=1,2,3"], "six numbers"),
        (["segment", "scan.nrrd", "out.nrrd", "--roi=1,2,3,4,6,5"], "empty"),
        (["segment", "scan.nrrd", "out.nrrd", "--roi=1,2,3,4,nan,5"], "empty"),
        (["segment", "scan.nrrd", "out.nrrd", "--device", "tpu"], "auto"),
        (["evaluate", "dataset"], "--model"),
        (["train", "dataset", "--budget", "soon"], "1h30m"),
        (["train", "dataset", "--budget", "0s"], "1h30m"),
        (["train", "dataset", "--budget", "1m", "--steps", "3"], "--budget"),
        (["train", "dataset", "--labeled", "0"], "at least 1"),
        (["train", "dataset", "--method", "magic"], "mper"),
        (["import", "a", "b", "--labels", "RV,,LV"], "empty name"),
        (["pack", "a", "b", "--max-mb", "-3"], "whole number"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_that_teaches(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("mper: error: ") and said.err.count("\n") == 1 and told in said.err


@pytest.mark.parametrize(
    "command",
    ["", "demo", "segment", "refine", "models", "import", "label", "pack", "train", "evaluate", "doctor"],
    ids=lambda c: c or "mper",
)
def test_help_is_there_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "mper segment" in said if not command else "examples:\n  mper" in said


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["models"], 0), (["models", "--json"], 0), (["train", "--budget"], 2)],
    ids=str,
)
def test_light_commands_load_nothing_heavy(words: list[str], code: int) -> None:
    heavy = "{'torch', 'SimpleITK', 'h5py', 'scipy', 'pydicom', 'skimage', 'PIL'}"
    script = f"""
import sys
from mper.cli import main
code = main({words!r})
print({heavy} & set(sys.modules))
sys.exit(code)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == code and done.stdout.splitlines()[-1] == "set()"


def test_python_dash_m_mper_ends_with_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mper", "segment", str(tmp_path / "no.nrrd"), str(tmp_path / "mask.nrrd")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr == f"mper: error: {tmp_path / 'no.nrrd'} does not exist\n"


def test_a_reader_that_has_had_enough_is_no_fault_of_the_program() -> None:
    script = (
        "import sys; from mper.cli import main, models\n"
        "models.run = lambda _: print('x' * 10_000_000) or 0\n"
        "sys.exit(main(['models']))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (FAILED, b"")


def test_models_are_listed_with_what_people_need_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from small_models import random_bundle

    quality = {"mean": {"dice": 0.91234}, "per_case": {"a": 0.93, "b": 0.8761}, "cases": "2 cases of split 'val'"}
    about = {"quality": quality, "licence": "Code Apache-2.0; weights for research " + "and teaching " * 20}
    random_bundle(about=about).save(tmp_path / "small")
    random_bundle().save(tmp_path / "unknown")
    monkeypatch.setattr("mper.resources.models_dir", lambda: tmp_path)
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "small 1.0.0: A small model" in said and "structure 1" in said and "Apache-2.0" in said
    assert "0.912, worst 0.876, on 2 cases of split 'val'" in said
    assert "not measured" in said

    assert main(["models", "--json"]) == 0
    small, unknown = json.loads(capsys.readouterr().out)["models"]
    assert small["name"] == "small" and small["about"]["quality"] == quality and len(small["sha256"]) == 64
    assert unknown["about"] == {}


def test_a_damaged_bundled_model_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "la").mkdir()
    (tmp_path / "la" / "card.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr("mper.resources.models_dir", lambda: tmp_path)
    assert main(["models"]) == FAILED
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "damaged" in said.err


def test_log_lies_where_older_versions_wrote_it(
    real_log_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    before = {"win32": tmp_path / "mper" / "logs", "darwin": Path.home() / "Library" / "Logs" / "mper"}
    found, expected = real_log_folder(), before.get(sys.platform, tmp_path / "mper")
    assert str(found).casefold() == str(expected).casefold()


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
        "Unable to synchronously copy object (file write failed: errno = 28, error message = '...')",  # h5py
        "Error while serializing: I/O error: There is not enough space on the disk. (os error 112)",
    ],
)
def test_a_full_disk_is_one_line_whatever_type_a_library_gives_it(text: str) -> None:
    try:
        exec(compile("raise RuntimeError(text)", "library.py", "exec"), {"text": text})
    except RuntimeError as error:
        assert errors.explain(error) == "the disk is full; make room, or choose another disk, and try again"
