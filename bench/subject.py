"""A running store under the loads that all stores get."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.errors import BenchError
from bench.load import Client, Rate, delete_listed, get_small, repeat, upload_small
from bench.plan import MIB
from bench.processes import watch_use
from bench.repeated import SIZE
from bench.stores import PAGE_NAMES, Store

FILL_SECONDS = 1


@dataclass(slots=True)
class Subject:
    """A store, and what is known of the files in it.

    Attributes:
        directory: for the lists of paths that the clients read.
        seconds: how long a load of small files lasts. short_seconds: of large files.
    """

    store: Store
    directory: Path
    seconds: float
    short_seconds: float
    _filler: bytes = field(default_factory=lambda: os.urandom(MIB))
    _files: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)

    def _measure(self, load: Callable[[], Rate]) -> Rate:
        """Return what a load has shown, with the use of all processes of the store.

        What the store has left for later is waited for and its processor time counted.
        """
        with ExitStack() as stack:
            uses = [stack.enter_context(watch_use(pid)) for pid in self.store.pids]
            rate = load()
            self.store.settle()
        return replace(
            rate,
            cpu_us=1e6 * sum(use.cpu_s for use in uses) / rate.requests,
            rss_peak_bytes=sum(use.rss_peak_bytes for use in uses),
        )

    def _measure_writing(self, load: Callable[[], Rate]) -> Rate:
        """Do what `_measure` does; then have the page cache owe the disk nothing.

        So none of it disturbs the next store.
        """
        rate = self._measure(load)
        write_back(self.directory)
        return rate

    def upload(self, clients: int) -> Rate:
        """Upload 4 KiB files, each of a new name."""
        return self._measure_writing(lambda: self._upload(clients, self.seconds))

    def _fill(self) -> None:
        """Have at least a page of 4 KiB files, all of them in the page cache."""
        names = self.store.list_names("")
        while len(names) < PAGE_NAMES:
            self._upload(16, FILL_SECONDS)
            names = self.store.list_names("")
        self._files = [self.store.download + name for name in names[:PAGE_NAMES]]
        with Client(self.store.server) as client:
            for path in self._files:
                client.get(path)

    def download(self, clients: int) -> Rate:
        """Download a page of 4 KiB files."""
        if not self._files:
            self._fill()
        self._write_paths(self._files)
        return self._measure(
            lambda: get_small(self.store.server, self._paths, clients=clients, seconds=self.seconds)
        )

    def list_page(self) -> Rate:
        """List a page of names, with one client."""
        self._write_paths([self.store.page])
        return self._measure(
            lambda: get_small(self.store.server, self._paths, clients=1, seconds=self.seconds)
        )

    def delete(self, clients: int) -> Rate:
        """Delete 4 KiB files, each once, that are uploaded just before."""
        word = secrets.token_hex(8)
        self._upload(clients, self.seconds, word)
        self.store.settle()
        self._write_paths([self.store.delete + name for name in self.store.list_names(word)])
        return self._measure_writing(
            lambda: delete_listed(
                self.store.server, self._paths, clients=clients, seconds=self.seconds
            )
        )

    def upload_large(self, size: int, clients: int) -> Rate:
        """Upload files of `size` bytes, each different; they are those to download then."""
        self._names.clear()
        return self._measure_writing(
            lambda: repeat(
                self.store.server,
                lambda client: self._names.append(self.store.put(client, self._filler, size)),
                clients=clients,
                seconds=self.short_seconds,
            )
        )

    def download_large(self, size: int, clients: int) -> Rate:
        """Download the files that the last `upload_large` has stored."""

        def download(client: Client) -> None:
            received = client.get(self.store.download + secrets.choice(self._names))
            if received != size:
                raise BenchError(f"{received} bytes came instead of {size}")

        return self._measure(
            lambda: repeat(self.store.server, download, clients=clients, seconds=self.short_seconds)
        )

    def count_syncs(self, clients: int, count: Callable[[], int]) -> float:
        """Return the syncs that the upload of a 4 KiB file costs, answered and settled.

        Args:
            count: returns how many syncs there were until now.
        """
        before = count()
        rate = repeat(
            self.store.server,
            lambda client: self.store.put(client, self._filler, SIZE),
            clients=clients,
            seconds=self.short_seconds,
        )
        self.store.settle()
        return (count() - before) / rate.requests

    @property
    def _paths(self) -> Path:
        return self.directory / "paths"

    def _write_paths(self, paths: list[str]) -> None:
        self._paths.write_text("".join(f"{path}\n" for path in paths))

    def _upload(self, clients: int, seconds: float, word: str = "") -> Rate:
        return upload_small(
            self.store.server,
            self.store.upload,
            clients=clients,
            size=SIZE,
            seconds=seconds,
            word=word,
        )


def write_back(directory: Path) -> None:
    """Have the kernel write all that it owes the disk of a directory."""
    subprocess.run(["sync", "-f", str(directory)], check=True)
