"""Run the tests of this folder in a real Slicer instead of the host.

    Slicer --testing --no-splash --python-script Testing/gui/in_slicer.py -k segment

Slicer's Python needs pytest and pytest-timeout: install them there, or name a folder that holds them, made for the same
version of Python, in the environment variable MPER_TEST_PACKAGES. MPER_PYTHON names the Python that runs the engine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import slicer

FOLDER = Path(__file__).resolve().parent
sys.path += [folder for folder in [os.environ.get("MPER_TEST_PACKAGES")] if folder]

import pytest  # noqa: E402

code = pytest.main([str(FOLDER), "--rootdir", str(FOLDER.parents[1]), "-p", "no:cacheprovider", *sys.argv[1:]])
slicer.util.exit(int(code))
