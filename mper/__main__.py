"""``python -m mper`` is the same as ``mper``.

In 3D Slicer the engine's packages have a folder of their own. The variable MPER_PACKAGES names it, and it goes before
all others: what starts Slicer's Python puts Slicer's own packages in front of PYTHONPATH.
"""

import os
import sys

if os.environ.get("MPER_PACKAGES"):
    sys.path.insert(0, os.environ["MPER_PACKAGES"])

from mper.cli import main

if __name__ == "__main__":
    sys.exit(main())
