"""Who may read what a process of dfs writes: its owner alone."""

from __future__ import annotations

import os

PRIVATE_UMASK = 0o077


def keep_files_private() -> None:
    """Have all files and directories that this process makes from now on be its owner's alone.

    What dfs itself opens says so already; this is for what libraries and child processes make, such
    as the database of the index and the files of the metrics.
    """
    os.umask(PRIVATE_UMASK)
