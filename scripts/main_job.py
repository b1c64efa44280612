"""The acceptance run: real files up, down again, compared, and the listing held against a journal.

    python -m scripts.main_job all    http://127.0.0.1:8000
    python -m scripts.main_job upload http://127.0.0.1:8000 --journal run2.jsonl /usr/bin
    python -m scripts.main_job verify http://127.0.0.1:8000 --journal run2.jsonl

`upload` writes a line to the journal for each answer 201, after it arrived and before the next file
of that client. When the server goes away it stops and says how far it came. `verify` demands that
each file of the journal comes back with its SHA-256 and is listed, and that whatever else is listed
under this run's prefix comes back whole too. Exit status: 0 all well, 1 a promise is broken, 3 the
server went away during `upload`. An API key is taken from the environment variable DFS_KEY.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import stat
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import urllib3

from scripts.client import READ_BYTES, Client, for_each

CLIENTS = 16
MULTIPART_EVERY = 10
REPORT_INTERVAL_S = 5
FAULTS_SHOWN = 20
SERVER_GONE = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that the server acknowledged."""

    id: str
    sha256: str
    size: int
    path: str


class Tally:
    """Counts of a phase, shared by its threads; prints a line of progress now and then."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.count = 0
        self.size_bytes = 0
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._started_s = self._reported_s = time.monotonic()

    def add(self, size_bytes: int) -> None:
        """Count one file."""
        with self._lock:
            self.count += 1
            self.size_bytes += size_bytes
            if time.monotonic() - self._reported_s > REPORT_INTERVAL_S:
                self._reported_s = time.monotonic()
                print(f"  {self}", flush=True)

    def add_fault(self, text: str) -> None:
        """Keep what went wrong."""
        with self._lock:
            self.faults.append(text)

    def __str__(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        mib = self.size_bytes / (1 << 20)
        return (
            f"{self.phase}: {self.count} files, {mib:.0f} MiB in {elapsed_s:.1f} s "
            f"({self.count / elapsed_s:.0f}/s, {mib / elapsed_s:.0f} MiB/s), "
            f"{len(self.faults)} faults"
        )


def default_directories() -> list[Path]:
    """Return the real input that every Debian machine has."""
    return [Path(sysconfig.get_path("stdlib")), Path("/usr/bin"), Path("/usr/share")]


def find_files(directories: Iterable[Path]) -> Iterator[Path]:
    """Yield every regular file that can be read below `directories`, no symlinks, sorted."""
    for directory in directories:
        for parent, folders, names in os.walk(directory):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                with contextlib.suppress(OSError):
                    if stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK):
                        yield path


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a local file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_file(client: Client, path: Path, name: str, *, multipart: bool) -> Entry:
    """Upload a local file. Raises OSError, and as `Client.upload`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pieces = iter(partial(file.read, READ_BYTES), b"")
        stored = client.upload(pieces, size, name, multipart=multipart)
    return Entry(stored.id, stored.sha256, stored.size, str(path))


def name_of(path: Path) -> str:
    """Return a path as a name that can be stored: bytes that are no UTF-8 become escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == " " else f"\\u{ord(c):04x}" for c in text)


def upload_all(client: Client, journal: Path, prefix: str, directories: Iterable[Path]) -> int:
    """Upload every file and note each acknowledgement. Returns the exit status."""
    tally = Tally("upload")
    gone = threading.Event()
    lock = threading.Lock()
    with journal.open("a", encoding="utf-8") as notes:

        def upload_one(numbered: tuple[int, Path]) -> None:
            number, path = numbered
            multipart = number % MULTIPART_EVERY == 0
            try:
                entry = upload_file(client, path, prefix + name_of(path), multipart=multipart)
            except urllib3.exceptions.HTTPError as error:
                if gone.is_set() or not client.is_alive():
                    gone.set()
                else:
                    tally.add_fault(f"{path}: no answer: {error}")
                return
            except (ValueError, OSError) as error:
                tally.add_fault(f"{path}: {error}")
                return
            with lock:
                notes.write(json.dumps(asdict(entry)) + "\n")
                notes.flush()
            tally.add(entry.size)

        for_each(upload_one, enumerate(find_files(directories)), gone, threads=CLIENTS)
    report(tally)
    if gone.is_set():
        print(f"The server went away after {tally.count} acknowledged files.")
        return SERVER_GONE
    return 1 if tally.faults else 0


def read_journal(journal: Path) -> list[Entry]:
    """Return what was acknowledged in this and earlier runs with that journal."""
    with journal.open(encoding="utf-8") as notes:
        return [Entry(**json.loads(line)) for line in notes if line.endswith("\n")]


def verify_all(client: Client, journal: Path, prefix: str) -> int:
    """Hold the node against the journal. Returns the exit status."""
    acknowledged = {entry.id: entry for entry in read_journal(journal)}
    tally = Tally("download")

    def check(expected: Entry) -> None:
        try:
            found = client.download(expected.id)
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            tally.add_fault(f"{expected.path} ({expected.id}): {error}")
            return
        tally.add(found[1])
        if found != (expected.sha256, expected.size):
            tally.add_fault(f"{expected.path} ({expected.id}): came back as {found}")

    for_each(check, acknowledged.values(), threading.Event(), threads=CLIENTS)
    extras = check_listing(client, prefix, acknowledged, tally)
    for extra in extras:
        print(f"  stored but not acknowledged: {extra.path}")
    for_each(check, extras, threading.Event(), threads=CLIENTS)
    report(tally)
    print(
        f"verify: {len(acknowledged)} acknowledged, {len(extras)} stored without an answer, "
        f"{len(tally.faults)} faults"
    )
    return 1 if tally.faults else 0


def check_listing(
    client: Client, prefix: str, acknowledged: dict[str, Entry], tally: Tally
) -> list[Entry]:
    """Compare the listing with the journal and return what is listed but not in the journal.

    Its digest is that of the local file where that file can be found, else what is listed.
    """
    extras: list[Entry] = []
    listed: set[str] = set()
    last = ("", "")
    for file in client.list_files(prefix):
        place = (file["name"], file["id"])
        if place <= last:
            tally.add_fault(f"listing is out of order: {place} after {last}")
        last = place
        listed.add(file["id"])
        entry = acknowledged.get(file["id"])
        if entry is None:
            path = Path(file["name"].removeprefix(prefix))
            digest = digest_of(path) if path.is_file() else file["sha256"]
            extras.append(Entry(file["id"], digest, file["size"], str(path)))
        elif (file["sha256"], file["size"]) != (entry.sha256, entry.size):
            tally.add_fault(f"{entry.path} ({entry.id}): listed as {file}")
    for entry in acknowledged.values():
        if entry.id not in listed:
            tally.add_fault(f"{entry.path} ({entry.id}): acknowledged, not listed")
    return extras


def report(tally: Tally) -> None:
    """Print the result of a phase and its first faults."""
    print(tally, flush=True)
    for fault in tally.faults[:FAULTS_SHOWN]:
        print(f"  FAULT {fault}")
    if len(tally.faults) > FAULTS_SHOWN:
        print(f"  ... and {len(tally.faults) - FAULTS_SHOWN} more")


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("upload", "verify", "all"))
    parser.add_argument("url")
    parser.add_argument("directories", nargs="*", type=Path, default=default_directories())
    parser.add_argument("--journal", type=Path, default=Path("main_job.jsonl"))
    parser.add_argument("--prefix", help="of the names; default: the journal's name")
    arguments = parser.parse_intermixed_args()
    prefix = arguments.prefix if arguments.prefix is not None else arguments.journal.stem
    status = 0
    try:
        client = Client(arguments.url, connections=CLIENTS)
        if arguments.mode != "verify":
            status = upload_all(client, arguments.journal, prefix, arguments.directories)
        if arguments.mode != "upload" and status != SERVER_GONE:
            status |= verify_all(client, arguments.journal, prefix)
    except (OSError, urllib3.exceptions.HTTPError) as error:
        print(f"Cannot go on: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
