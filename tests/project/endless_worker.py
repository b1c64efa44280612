"""A worker process that also runs a job which never ends: `python -m` with its name."""

from __future__ import annotations

import sys

from dfs.queue import checked
from workers.run import main

ENDLESS = "signal.pause"
CALLS = {**checked.CALLS, ENDLESS: {}}

if __name__ == "__main__":
    checked.CALLS = CALLS
    sys.exit(main())
