"""Mixed load on a node, with every byte checked: uploads, downloads, listings and deletes at once.

    python -m scripts.load_test --url http://127.0.0.1:8000 --clients 32 --seconds 60
    python -m scripts.load_test --operations 100000 --mix upload=1,download=9 --sizes 4k:9,1m:1
    python -m scripts.load_test --seed 7 --sync --json load.json

The bytes of each file follow from the seed and from which file it is: to store new ones, take
another seed. The SHA-256 of what was acknowledged is remembered, and every download is held against
it. At the end each file that was stored and not deleted is downloaded once more. The files stay,
under a prefix of this run.

Times run from the request to the last byte of the answer, of operations that succeed; one MB is a
million bytes. All clients are threads of one process: a large machine takes several processes.
An API key is taken from the environment variable DFS_KEY.
Ctrl-C ends the load early, and another one the check. Exit status: 0 all well, 1 a byte was wrong
or an acknowledged file was missing, 2 the node does not answer or the command line is wrong, 3 some
files could not be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import urllib3

from scripts.client import Client, StatusError, WrongAnswerError, for_each
from scripts.load_files import Content, Held, Shelf
from scripts.load_options import KINDS, parse_options
from scripts.load_report import Tally, format_summary, progress_shown, summarize

LIST_FILES = 100
ERROR_PAUSE_S = 0.2
CHECK_TRIES = 5
CHECK_PAUSE_S = 1.0
NOT_FOUND, BUSY = 404, (429, 503)
FAULTY, UNUSABLE, NOT_CHECKED = 1, 2, 3


class Load:
    """What the clients do, and the check of it.

    Args:
        prefix: of the names of all files.
        mix: weight of each kind of operation. sizes: weight of each size in bytes.
        clients: how many work at once.
        tally: where everything is counted.
    """

    def __init__(
        self,
        *,
        client: Client,
        seed: int,
        prefix: str,
        mix: Mapping[str, float],
        sizes: Mapping[int, float],
        clients: int,
        tally: Tally,
    ) -> None:
        self.shelf = Shelf()
        self._client = client
        self._seed = seed
        self._content = Content(seed)
        self._prefix = prefix
        self._mix = mix
        self._sizes = sizes
        self._clients = clients
        self._tally = tally

    def run(self, may_go_on: Callable[[], bool], stop: threading.Event) -> None:
        """Have all clients work until `may_go_on` says no or `stop` is set."""
        run_client = partial(self._run_client, may_go_on=may_go_on, stop=stop)
        for_each(run_client, range(self._clients), stop, threads=self._clients)

    def check(self, stop: threading.Event) -> None:
        """Download every file that must be there, until `stop` is set or the node goes away."""
        files = self.shelf.files()
        for_each(partial(self._check_file, stop=stop), files, stop, threads=self._clients)
        self._tally.unchecked = len(files) - self._tally.checked

    def _run_client(
        self, number: int, *, may_go_on: Callable[[], bool], stop: threading.Event
    ) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        labels = (f"{number:04d}/{count:08d}" for count in itertools.count())
        kinds, weights = list(self._mix), list(self._mix.values())
        while not stop.is_set() and may_go_on():
            if not self._operate(chance.choices(kinds, weights)[0], chance, labels):
                stop.wait(ERROR_PAUSE_S)

    def _operate(self, kind: str, chance: random.Random, labels: Iterator[str]) -> bool:
        """Do one operation; an upload where there is no file to download or to delete.

        Returns:
            Whether it succeeded.
        """
        if kind == "list":
            prefix = f"{self._prefix}{chance.randrange(self._clients):04d}/"
            return self._count(kind, partial(self._list, prefix))
        if kind == "download":
            with self.shelf.lend(chance) as file:
                if file is not None:
                    return self._count(kind, partial(self._download, file))
        if kind == "delete":
            file = self.shelf.take(chance)
            if file is not None:
                return self._count(kind, partial(self._delete, file))
        size = chance.choices(list(self._sizes), list(self._sizes.values()))[0]
        return self._count("upload", partial(self._upload, next(labels), size))

    def _count(self, kind: str, work: Callable[[], int]) -> bool:
        """Do one operation, which returns the bytes that it moved, and count it."""
        started_s = time.perf_counter()
        try:
            size_bytes = work()
        except WrongAnswerError as error:
            self._tally.add_wrong(str(error))
            self._tally.add_error(kind, "wrong bytes")
        except StatusError as error:
            self._tally.add_error(kind, str(error.status))
        except urllib3.exceptions.HTTPError as error:
            self._tally.add_error(kind, type(error).__name__)
        except (ValueError, KeyError, TypeError):
            self._tally.add_error(kind, "unreadable answer")
        else:
            self._tally.add(kind, size_bytes, time.perf_counter() - started_s)
            return True
        return False

    def _upload(self, label: str, size: int) -> int:
        name = self._prefix + label
        stored = self._client.upload(self._content.pieces(label, size), size, name)
        self.shelf.put(Held(stored.id, name, stored.sha256, stored.size))
        self._tally.add_copies(stored.copies)
        return size

    def _download(self, file: Held) -> int:
        with self._missing_noted(file):
            found = self._client.download(file.id)
        if found != (file.sha256, file.size):
            raise WrongAnswerError(
                f"{file.name} ({file.id}) has {file.size} bytes, SHA-256 {file.sha256}; "
                f"{found[1]} bytes came, SHA-256 {found[0]}"
            )
        return file.size

    def _list(self, prefix: str) -> int:
        for listed in self._client.list_page(prefix, limit=LIST_FILES)[0]:
            if self.shelf.differs(listed):
                raise WrongAnswerError(f"listed otherwise than stored: {listed}")
        return 0

    def _delete(self, file: Held) -> int:
        with self._missing_noted(file):
            self._client.delete(file.id)
        self.shelf.count_deleted()
        return 0

    @contextlib.contextmanager
    def _missing_noted(self, file: Held) -> Iterator[None]:
        """Note that the file is missing if the node says so meanwhile."""
        try:
            yield
        except StatusError as error:
            if error.status == NOT_FOUND:
                self._tally.add_missing(file.id, f"{file.name} ({file.id}): {error}")
            raise

    def _check_file(self, file: Held, *, stop: threading.Event) -> None:
        """Download a file once more. One that cannot be had from a node that answers is missing."""
        for _ in range(CHECK_TRIES):
            try:
                self._settle(file)
                return
            except StatusError:
                is_busy = True
            except urllib3.exceptions.HTTPError:
                is_busy = False
            if stop.wait(CHECK_PAUSE_S):
                return
        if is_busy:
            return
        if self._client.is_alive():
            self._tally.add_missing(file.id, f"{file.name} ({file.id}): every download broke off")
            self._tally.add_checked()
        else:
            stop.set()

    def _settle(self, file: Held) -> None:
        """Count what a download brings. Raises what says that another one may bring more."""
        try:
            self._download(file)
        except WrongAnswerError as error:
            self._tally.add_wrong(str(error))
        except StatusError as error:
            if error.status in BUSY:
                raise
            self._tally.add_missing(file.id, f"{file.name} ({file.id}): {error}")
        self._tally.add_checked()


def begin_extent(options: argparse.Namespace) -> Callable[[], bool]:
    """Return a function that says, before each operation, whether it is still to be done."""
    if options.operations is not None:
        numbers = itertools.count(1)
        return lambda: next(numbers) <= options.operations
    deadline_s = time.monotonic() + options.seconds
    return lambda: time.monotonic() < deadline_s


@contextlib.contextmanager
def interrupts_stopping(*stops: threading.Event) -> Iterator[None]:
    """Let each Ctrl-C set the first of the events that is not set, and the one after all end us."""

    def stop_next(_number: int, _frame: object) -> None:
        for stop in stops:
            if not stop.is_set():
                stop.set()
                return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop_next)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_load(client: Client, options: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """Do the load and the check; return all figures."""
    tally = Tally(KINDS)
    load = Load(
        client=client,
        seed=options.seed,
        prefix=prefix,
        mix=options.mix,
        sizes=options.sizes,
        clients=options.clients,
        tally=tally,
    )
    load_stop, check_stop = threading.Event(), threading.Event()
    with interrupts_stopping(load_stop, check_stop), progress_shown(tally, sys.stderr):
        started_s = time.perf_counter()
        load.run(begin_extent(options), load_stop)
        elapsed_s = time.perf_counter() - started_s
        load_stop.set()
        if not options.no_final_check:
            load.check(check_stop)
    return summarize(tally, load.shelf, elapsed_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    options = parse_options(arguments, description=__doc__)
    prefix = f"load-{secrets.token_hex(4)}/"
    headers = {"DFS-Replication": "sync"} if options.sync else {}
    client = Client(options.url, connections=options.clients, write_headers=headers)
    with contextlib.closing(client):
        if not client.is_alive():
            print(f"{client.url} does not answer.", file=sys.stderr)
            return UNUSABLE
        print(f"{options.clients} clients, seed {options.seed}, names {prefix}...", flush=True)
        summary = run_load(client, options, prefix)
    print(format_summary(summary))
    if options.json is not None:
        given = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({**given, "prefix": prefix, **summary}, indent=2) + "\n")
    if summary["wrong"] or summary["missing"]:
        return FAULTY
    return NOT_CHECKED if summary["unchecked"] else 0


if __name__ == "__main__":
    sys.exit(main())
