"""One of several processes that store files in a node without HTTP; started by `ceiling`.

    python -m bench.committing DIRECTORY CLIENTS SECONDS

It says `ready` when it has opened the node, begins when a line comes, and ends with a line of JSON.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path

from bench.repeated import SIZE
from bench.scale import make_config
from dfs.core.logging import configure_logging
from dfs.services.batch import CommitReport
from dfs.services.changes import Upload
from dfs.services.crew import Chore, Crew
from dfs.services.files import FileService, Stored
from dfs.services.hooks import Hooks
from dfs.services.pending import Pending
from dfs.wiring import open_services


class OneThread(Crew):
    """What a worker's thread does, if nothing else happens: it takes requests, then commits."""

    does_chores = True
    chore: Chore

    def take_on(self, chore: Chore) -> None:
        """Know the commits."""
        self.chore = chore


def begin_store(files: FileService, filler: bytes) -> Pending[Stored]:
    """Begin to store a file that is like no other."""
    blob = files.new_blob()
    word = secrets.token_bytes(16)
    blob.write(word + filler)
    return files.begin_store([Upload(blob, word.hex(), "application/octet-stream")])


def store_until(deadline_s: float, files: FileService, crew: OneThread, clients: int) -> int:
    """Store files for so many clients, each of which waits for its last. Returns how many."""
    filler = secrets.token_bytes(SIZE - 16)
    count = 0
    while time.monotonic() < deadline_s:
        pending = [begin_store(files, filler) for _ in range(clients)]
        while crew.chore.is_due():
            crew.chore.do()
        count += sum(len(each.result().files) for each in pending)
    return count


def main(directory: Path, clients: int, seconds: float) -> None:
    """Store files for so many clients for so long, and print what it came to."""
    configure_logging()
    config = make_config(directory)
    commits: list[int] = []

    def count_commit(report: CommitReport) -> None:
        commits.append(report.changes)

    crew = OneThread(gather_s=0)
    services = open_services(config, hooks=Hooks(on_commit=count_commit), crew=crew)
    try:
        print("ready", flush=True)
        sys.stdin.readline()
        began, cpu_before_s = time.monotonic(), time.process_time()
        stored = store_until(began + seconds, services.files, crew, clients)
        elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_before_s
    finally:
        services.close()
    counts = {"changes": stored, "commits": len(commits), "seconds": elapsed_s, "cpu_s": cpu_s}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
