"""Signs of life: files in DFS_RUN_PATH that the processes of a node keep locked while they live.

The kernel lets go of a lock when its process dies, whatever it died of.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

WORKERS_NAME = "workers"
"""A directory with a file for each worker process that has opened the node."""
SCHEDULER_NAME = "scheduler.lock"
"""Of the scheduler process that asks for the periodic jobs."""
WEB_PID_NAME = "web.pid"
"""Holds the process id of the newest master of which a worker serves. It is not locked."""


def is_shown(path: Path) -> bool:
    """Tell whether a process keeps this file locked. Nothing is made or removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
