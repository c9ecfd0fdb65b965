"""``python -m mper`` is the same as ``mper``."""

import sys

from mper.cli import main

if __name__ == "__main__":
    sys.exit(main())
