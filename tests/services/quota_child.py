"""A process that stores files in threads until the quota is used up. Run by test_usage.py.

It prints the size of each file that was acknowledged, one a line.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from dfs.core.errors import QuotaExceededError
from dfs.core.logging import configure_logging
from dfs.wiring import Services, open_services
from tests.services.conftest import make_config, store_bytes

THREADS = 4
FILE_BYTES_MAX = 2000
REFUSALS_MAX = 20


def fill(node: Services, seed: int) -> None:
    """Store files until many were refused."""
    rng = random.Random(seed)
    refusals = 0
    while refusals < REFUSALS_MAX:
        size = rng.randrange(FILE_BYTES_MAX)
        try:
            store_bytes(node, "file", rng.randbytes(size))
        except QuotaExceededError:
            refusals += 1
        else:
            os.write(1, b"%d\n" % size)


def main(directory: Path, index_url: str, quota_bytes: int) -> None:
    """Fill the node."""
    configure_logging()
    node = open_services(make_config(directory, index_url, quota_bytes=quota_bytes))
    threads = [threading.Thread(target=fill, args=(node, os.getpid() + n)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    node.close()
