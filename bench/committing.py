"""One of several processes that store files in a node without HTTP; started by `ceiling`.

    python -m bench.committing DIRECTORY THREADS SECONDS

It says `ready` when it has opened the node, begins when a line comes, and ends with a line of JSON.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.repeated import SIZE
from bench.scale import make_config
from dfs.core.logging import configure_logging
from dfs.services.batch import CommitReport
from dfs.services.changes import Upload
from dfs.services.files import FileService
from dfs.services.hooks import Hooks
from dfs.wiring import open_services


def store_until(deadline_s: float, files: FileService, filler: bytes) -> int:
    """Store one file after the other, each in a change of its own. Returns how many."""
    count = 0
    while time.monotonic() < deadline_s:
        with files.announce():
            blob = files.new_blob()
            word = secrets.token_bytes(16)
            blob.write(word + filler)
            files.store([Upload(blob, word.hex(), "application/octet-stream")])
        count += 1
    return count


def main(directory: Path, threads: int, seconds: float) -> None:
    """Store files from so many threads for so long, and print what it came to."""
    configure_logging(debug=False)
    config = make_config(directory)
    commits: list[int] = []

    def count_commit(report: CommitReport) -> None:
        commits.append(report.changes)

    services = open_services(config, hooks=Hooks(on_commit=count_commit))
    try:
        print("ready", flush=True)
        sys.stdin.readline()
        filler = secrets.token_bytes(SIZE - 16)
        store = partial(store_until, files=services.files, filler=filler)
        began, cpu_before_s = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            stored = sum(pool.map(store, [began + seconds] * threads))
        elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_before_s
    finally:
        services.close()
    counts = {"changes": stored, "commits": len(commits), "seconds": elapsed_s, "cpu_s": cpu_s}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
