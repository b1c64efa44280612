"""A process of a node that is killed at a chosen step. Run by test_crash.py, never collected.

It stores, changes and deletes files for ever, prints one JSON line for each acknowledgement, and
kills itself with -9 when it comes to the COUNTth STEP (after its start).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from pathlib import Path

from dfs.core.logging import configure_logging
from dfs.wiring import open_services
from tests.services.conftest import make_config, store_bytes


def main(directory: Path, index_url: str, fatal_step: str, count: int) -> None:
    """Work until the fatal step."""
    seen = [-1]

    def on_step(name: str) -> None:
        if name == fatal_step and seen[0] >= 0:
            seen[0] += 1
            if seen[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)

    configure_logging()
    services = open_services(make_config(directory, index_url), on_step=on_step)
    rng = random.Random(os.getpid())
    seen[0] = 0
    say("begun", pid=str(os.getpid()))
    mine: list[str] = []
    for number in range(10_000):
        size = rng.choice([0, 1, 100, 60_000, 70_000, 1_500_000])
        data = rng.randbytes(size)
        say("intent", digest=hashlib.sha256(data).hexdigest())
        file = store_bytes(services, f"file-{os.getpid()}-{number}", data).files[0]
        say("stored", id=file.id, digest=file.etag)
        mine.append(file.id)
        if number % 3 == 2:
            say("deleting", id=mine[0])
            services.files.delete(mine[0])
            say("deleted", id=mine.pop(0))
        if number % 4 == 3:
            services.files.update(mine[-1], {"key": f"new-{os.getpid()}-{number}"})
            say("renamed", id=mine[-1], key=f"new-{os.getpid()}-{number}")


def say(event: str, **fields: str) -> None:
    """Print one line that the parent has even if this process dies at once."""
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")
