"""A process that restores or mends a log and is killed at a chosen step. Never collected.

It kills itself with -9 when it comes to the COUNTth STEP. With SEGMENT it opens the node and mends
that segment, or drops it if the log says that it may go; without, it restores the log.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dfs.services.dropping import drop_segment
from tests.services.dropped import find_drop
from tests.services.replicated import ReplicatedNode, mend


def main(directory: Path, index_url: str, fatal_step: str, count: int, *segments: int) -> None:
    """Work until the fatal step."""
    seen = 0

    def on_step(name: str) -> None:
        nonlocal seen
        seen += name == fatal_step
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    cluster = ReplicatedNode(directory, index_url)
    if segments:
        node, segment_id = cluster.open(), segments[0]
        drop = find_drop(node, segment_id)
        if drop is None:
            mend(node, segment_id, on_step=on_step)
        else:
            drop_segment(node.log, drop, on_step=on_step)
    else:
        cluster.restore(on_step=on_step)
