"""Programs that pip does not bring, and some tests need."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

_PACKAGES = {"dciodvfy": "dicom3tools", "Orthanc": "orthanc orthanc-dicomweb"}
_PACKAGES |= dict.fromkeys(("munged", "slurmctld", "slurmd", "sbatch"), "slurm-wlm munge")


def find_tool(program: str) -> str | None:
    """The path of a program, None where it is missing."""
    beside = Path(sys.executable).parent  # what pip installs lies there, whether or not the environment is active
    return shutil.which(program, path=os.pathsep.join([str(beside), os.environ.get("PATH", ""), "/usr/sbin"]))


def tool(program: str) -> str:
    """The path of a program; without it the test is skipped with the install line, and fails under CI=true."""
    found = find_tool(program)
    if found:
        return found
    packages = _PACKAGES.get(program)
    line = f"needs {program}: " + (f"apt-get install {packages}" if packages else "pip install -e '.[test]'")
    if os.environ.get("CI") == "true":
        pytest.fail(line)
    pytest.skip(line)
