"""A process of a node that is killed while it collects garbage. Run by test_garbage_crash.py.

It stores and deletes files of the same few bytes for ever, and collects, copies and removes in
between. It prints one JSON line for each acknowledgement, and kills itself with -9 when it comes to
the COUNTth STEP after its start.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from dfs.core.config import Config
from dfs.core.logging import configure_logging
from dfs.services import apply
from dfs.wiring import Services, open_services
from tests.services.conftest import make_config, store_bytes
from tests.services.crash_child import say

CONTENTS = [bytes([number]) * 100_000 for number in range(4)]
REPLICA = "replica1"


def garbage_config(directory: Path, index_url: str) -> Config:
    """Return the settings of the node: with a replica, and without a trash."""
    replicas = ((REPLICA, str(directory / REPLICA)),)
    return make_config(directory, index_url, replicas=replicas, delete_grace_s=0)


def tidy(node: Services) -> None:
    """Do once all that jobs do."""
    node.garbage.work(budget_s=60)
    for store in node.stores.all():
        while node.replication.work(store.name, budget_s=10).more:
            pass


def main(directory: Path, index_url: str, fatal_step: str, count: int) -> None:
    """Work until the fatal step."""
    seen = [-1]

    def on_step(name: str) -> None:
        if name == fatal_step and seen[0] >= 0:
            seen[0] += 1
            if seen[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)

    configure_logging()
    apply.REMOVAL_DELAY_MS = 0
    node = open_services(garbage_config(directory, index_url), on_step=on_step)
    rng = random.Random(count)
    seen[0] = 0
    mine: list[str] = []
    for _ in range(10_000):
        file = store_bytes(node, "file", rng.choice(CONTENTS)).files[0]
        say("stored", id=file.id, digest=file.etag)
        mine.append(file.id)
        if len(mine) > 2:
            say("deleting", id=mine[0])
            node.files.delete(mine.pop(0))
        tidy(node)
