"""Work in the background: a process of its own, at low priority."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mper.utils.processes import start_detached


def test_detached_process_prints_to_its_log_and_knows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPER_TOKEN", "secret" * 4)
    log = tmp_path / "mit Umlaut ä.txt"
    log.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("MPER_ERROR_CODES", "1")
    process = start_detached(["segment", str(tmp_path / "none.nrrd"), str(tmp_path / "mask.nrrd")], log)
    assert process.wait(60) == 1 and process.stdin is None
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[1].startswith("mper: error: ") and len(lines) == 2
    assert os.environ["MPER_TOKEN"] == "secret" * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has priority classes instead")
def test_detached_process_leads_a_session_of_its_own(tmp_path: Path) -> None:
    process = start_detached(["serve", "--port", "0"], tmp_path / "log")
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.kill()
        process.wait()


def test_standing_back_lowers_the_priority_once(tmp_path: Path) -> None:
    code = "from mper.utils.processes import lower_priority; lower_priority(); lower_priority()\n"
    code += "import os, sys\nif sys.platform != 'win32': print(os.nice(0))\nelse: print('below normal')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("below normal", str(max(10, os.nice(0) if hasattr(os, "nice") else 0)))


def test_one_core_is_left_where_there_are_more_than_two() -> None:
    code = (
        "import torch\nfrom mper.utils.processes import reserve_one_core\n"
        "for n in (1, 2, 3, 8):\n    torch.set_num_threads(n); reserve_one_core(); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["1", "2", "2", "7"]
