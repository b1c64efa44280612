"""What dfs is compared with, and dfs beside it: stores that take, give, list and delete files."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.load import Client, Destination, list_ids
from bench.replication import QUORUM, Index, replicated, wait_for
from bench.servers import Server, run_node, run_worker

PAGE_NAMES = 1000
TRACES = "*.trace"
"""Below a store's directory: what its processes have synced, when it was run with `trace`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store that answers.

    Attributes:
        pids: of the processes that it consists of, or from which they descend.
        upload: where new files are sent.
        download, delete: the path up to a file's name.
        page: path of the first page of PAGE_NAMES names.
        list_names: returns the names of files that begin so, of dfs the ids.
        settle: waits until the store has nothing left to do for what it has answered.
    """

    server: Server
    pids: tuple[int, ...]
    upload: Destination
    download: str
    delete: str
    page: str
    list_names: Callable[[str], list[str]]
    settle: Callable[[], None] = lambda: None

    def put(self, client: Client, filler: bytes, size: int) -> str:
        """Upload a new file of bytes like no other's, and return its name, of dfs its id."""
        name = secrets.token_hex(8)
        path = self.upload.prefix + name
        answer = client.send(self.upload.method, path, filler, size=size)
        return str(json.loads(answer)["id"]) if answer else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A store that may be measured.

    Attributes:
        name: what its figures begin with.
        install: command that installs it; empty for dfs.
        programs: what must be there to run it.
        version: returns which version it is.
        how: how it is run. durability: what it has synced when it answers.
        run: runs it with its data in a directory; the flag has strace count its syncs.
    """

    name: str
    title: str
    install: str = ""
    programs: tuple[str, ...] = ()
    version: Callable[[], str]
    how: str
    durability: str
    run: Callable[[Path, bool], AbstractContextManager[Store]]

    @property
    def missing(self) -> list[str]:
        """Programs that are not installed."""
        return [name for name in self.programs if find_program(name) is None]


def find_program(name: str) -> str | None:
    """Return the path of a program that is on PATH or in the directories of BENCH_PATH."""
    places = (os.environ.get("PATH", os.defpath), os.environ.get("BENCH_PATH", ""))
    return shutil.which(name, path=os.pathsep.join(place for place in places if place))


def list_by_pages(page: Callable[[str], list[str]]) -> list[str]:
    """Return the names of all pages.

    Args:
        page: returns the names after one; "" is before all.
    """
    names: list[str] = []
    while more := page(names[-1] if names else ""):
        names += more
    return names


@contextlib.contextmanager
def run_dfs(directory: Path, trace: bool, *, quorum: bool) -> Iterator[Store]:
    """Run a node of dfs with two local replicas, a worker and a queue.

    Args:
        quorum: an upload is answered when two of the three stores have it on disk; otherwise when
            the primary has.
    """
    sync_trace = directory / "node.trace" if trace else None
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(replicated(directory))
        settings |= QUORUM if quorum else {}
        server = run_node(directory, settings=settings, sync_trace=sync_trace)
        node = stack.enter_context(server)
        worker = stack.enter_context(run_worker(directory, settings))
        index = stack.enter_context(contextlib.closing(Index(directory)))
        yield Store(
            server=node,
            pids=(node.process.pid, worker.pid),
            upload=Destination("POST", "/upload?name="),
            download="/download/",
            delete="/files/",
            page=f"/files?limit={PAGE_NAMES}",
            list_names=lambda prefix: list_ids(node, prefix=prefix),
            settle=lambda: wait_for(index.is_caught_up),
        )
