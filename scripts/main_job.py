"""The acceptance run: real files up, down again, compared, and the listing held against a journal.

    python -m scripts.main_job all    http://127.0.0.1:8000
    python -m scripts.main_job upload http://127.0.0.1:8000 --journal run2.jsonl /usr/bin
    python -m scripts.main_job verify http://127.0.0.1:8000 --journal run2.jsonl

`upload` writes a line to the journal for each answer 201, after it arrived and before the next file
of that client. When the server goes away it stops and says how far it came. `verify` demands that
each file of the journal comes back with its SHA-256 and is listed, and that whatever else is listed
under this run's prefix comes back whole too. Exit status: 0 all well, 1 a promise is broken, 3 the
server went away during `upload`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import stat
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlencode

import urllib3

CLIENTS = 16
READ_BYTES = 1 << 20
PAGE_FILES = 1000
MULTIPART_EVERY = 10
REPORT_INTERVAL_S = 5
FAULTS_SHOWN = 20
SERVER_GONE = 3
_BOUNDARY = "dfs-main-job-7c1f0b5e9a3d"


T = TypeVar("T")


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


def for_each(work: Callable[[T], None], items: Iterable[T], stop: threading.Event) -> None:
    """Call `work` with each item from CLIENTS threads, until all are done or `stop` is set."""
    shared = iter(items)
    lock = threading.Lock()

    def run() -> None:
        while not stop.is_set():
            with lock:
                item = next(shared, None)
            if item is None:
                return
            work(item)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for client in [pool.submit(run) for _ in range(CLIENTS)]:
            client.result()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a local file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashingBody:
    """A local file as the body of a request; hashes what it gives out."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        while data := self._file.read(READ_BYTES):
            self._hash.update(data)
            self.size += len(data)
            yield data

    def sha256(self) -> str:
        """Return the digest of what was given out so far, in hexadecimal."""
        return self._hash.hexdigest()


class Client:
    """Speaks to one node. Shared by all threads."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.http = urllib3.PoolManager(
            maxsize=CLIENTS,
            block=False,
            retries=False,
            timeout=urllib3.Timeout(connect=10, read=300),
        )

    def is_alive(self) -> bool:
        """Return whether the node answers at all."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self.http.request("GET", f"{self.url}/health", timeout=10).status == 200
        return False

    def upload(self, path: Path, name: str, *, multipart: bool) -> Entry:
        """Upload a local file.

        Raises:
            urllib3.exceptions.HTTPError: there was no answer.
            ValueError: the answer is not the acknowledgement of these bytes.
        """
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            body = HashingBody(file)
            answer = self._send(body, size, name, multipart=multipart)
        if answer.status != 201:
            raise ValueError(f"upload answered {answer.status}: {answer.data[:300]!r}")
        stored = answer.json()
        entry = Entry(stored["id"], body.sha256(), body.size, str(path))
        if (stored["sha256"], stored["size"], stored["name"]) != (entry.sha256, entry.size, name):
            raise ValueError(f"upload acknowledged other bytes: {stored}")
        if int(answer.headers["DFS-Durable-Copies"]) < 1 or int(answer.headers["DFS-LSN"]) < 1:
            raise ValueError("upload does not say what is guaranteed")
        return entry

    def _send(
        self, body: HashingBody, size: int, name: str, *, multipart: bool
    ) -> urllib3.BaseHTTPResponse:
        if not multipart:
            return self.http.request(
                "POST",
                f"{self.url}/upload?{urlencode({'name': name})}",
                body=body,
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            )
        quoted = name.replace("\\", "\\\\").replace('"', "%22")
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
        return self.http.request(
            "POST",
            f"{self.url}/upload",
            body=itertools.chain([head], body, [tail]),
            headers={
                "Content-Length": str(len(head) + size + len(tail)),
                "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            },
        )

    def download(self, file_id: str) -> tuple[str, int]:
        """Return (SHA-256 in hexadecimal, size) of what a download brings.

        Raises:
            urllib3.exceptions.HTTPError: it broke off.
            ValueError: another status than 200.
        """
        answer = self.http.request(
            "GET", f"{self.url}/download/{file_id}", preload_content=False, decode_content=False
        )
        with contextlib.closing(answer):
            if answer.status != 200:
                raise ValueError(f"download answered {answer.status}: {answer.read(300)!r}")
            digest = hashlib.sha256()
            size = 0
            for data in answer.stream(READ_BYTES, decode_content=False):
                digest.update(data)
                size += len(data)
        answer.release_conn()
        return digest.hexdigest(), size

    def list_files(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what the node lists under a prefix, page by page."""
        after: dict[str, str] = {}
        while True:
            query = urlencode({"limit": PAGE_FILES, "prefix": prefix, **after})
            answer = self.http.request("GET", f"{self.url}/files?{query}")
            if answer.status != 200:
                raise ValueError(f"listing answered {answer.status}: {answer.data[:300]!r}")
            page = answer.json()
            yield from page["files"]
            if page["next"] is None:
                return
            after = {"after": page["next"]}


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
                entry = client.upload(path, prefix + name_of(path), multipart=multipart)
            except urllib3.exceptions.HTTPError as error:
                if gone.is_set() or not client.is_alive():
                    gone.set()
                else:
                    tally.add_fault(f"{path}: no answer: {error}")
                return
            except (ValueError, KeyError, OSError) as error:
                tally.add_fault(f"{path}: {error}")
                return
            with lock:
                notes.write(json.dumps(asdict(entry)) + "\n")
                notes.flush()
            tally.add(entry.size)

        for_each(upload_one, enumerate(find_files(directories)), gone)
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

    for_each(check, acknowledged.values(), threading.Event())
    extras = check_listing(client, prefix, acknowledged, tally)
    for extra in extras:
        print(f"  stored but not acknowledged: {extra.path}")
    for_each(check, extras, threading.Event())
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
    client = Client(arguments.url)
    prefix = arguments.prefix if arguments.prefix is not None else arguments.journal.stem
    status = 0
    try:
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
