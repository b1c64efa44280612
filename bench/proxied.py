"""A node alone, behind nginx by `deploy/nginx/dfs.conf`, and nginx alone."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.load import Client, Rate, get_small, post_small, repeat
from bench.plan import MIB, Plan
from bench.processes import watch_use
from bench.proxy import run_proxy
from bench.repeated import SIZE, Repeated
from bench.results import Outcome, Series, Table, measure_rounds
from bench.servers import Server, get, run_nginx, run_node

CLIENTS = 64
SETTINGS = {"DFS_AUTH": "off", "DFS_ACCEL_PREFIX": "/dfs-blobs/"}
ALONE, PROXIED, TLS, STATIC = "alone", "proxied", "proxied_tls", "static"
Loads = dict[str, Callable[[], Rate]]
HEADER = (
    *("what", "dfs alone", "CPU us", "through nginx", "CPU us", "of dfs alone"),
    *("through nginx, TLS", "CPU us", "nginx alone", "CPU us"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table.

    Attributes:
        mib: bytes of a file in MiB, if rates are told in MiB/s; else 1.
        loads: by who answers.
    """

    name: str
    label: str
    mib: int
    loads: Loads


@dataclass(frozen=True, slots=True)
class Ground:
    """What is measured, and where nginx alone has its files."""

    plan: Plan
    servers: dict[str, Server]
    root: Path

    def uploads(self) -> Case:
        """Return the case of small uploads."""
        post = partial(
            post_small, path="/upload", clients=CLIENTS, size=SIZE, seconds=self.plan.seconds
        )
        loads: Loads = {who: partial(post, self.servers[who]) for who in (ALONE, PROXIED)}
        return Case("up_4k", f"4 KiB up, {CLIENTS} clients, files/s", 1, loads)

    def small_downloads(self) -> Case:
        """Return the case of files that lie in the log."""
        loads = self._downloads(SIZE, 1000, (ALONE, PROXIED, STATIC))
        return Case("down_4k", f"4 KiB down, {CLIENTS} clients, files/s", 1, loads)

    def medium_downloads(self) -> Case:
        """Return the case of files that nginx sends, over TLS as well."""
        loads = self._downloads(MIB, 32, (ALONE, PROXIED, TLS, STATIC))
        return Case("down_1m", f"1 MiB down, {CLIENTS} clients, MiB/s", 1, loads)

    def large_downloads(self) -> Case:
        """Return the case of one client that asks for one large file."""
        size, seconds = self.plan.large_bytes, self.plan.seconds
        (path,), (static_path,) = self._store(size, 1)

        def load(who: str) -> Rate:
            asked = static_path if who == STATIC else path
            return repeat(
                self.servers[who], lambda client: client.get(asked), clients=1, seconds=seconds
            )

        loads: Loads = {who: partial(load, who) for who in (ALONE, PROXIED, STATIC)}
        mib = size // MIB
        return Case("down_large", f"{mib} MiB down, 1 client, MiB/s", mib, loads)

    def _downloads(self, size: int, count: int, answering: Sequence[str]) -> Loads:
        """Return loads of many clients that ask for many files in turn."""
        paths, static_paths = self._store(size, count)
        loads: Loads = {}
        for who in answering:
            listed = self.root / f"{size}-{who}"
            listed.write_text("\n".join(static_paths if who == STATIC else paths))
            loads[who] = partial(
                get_small, self.servers[who], listed, clients=CLIENTS, seconds=self.plan.seconds
            )
        return loads

    def _store(self, size: int, count: int) -> tuple[list[str], list[str]]:
        """Store files in the node, and as many for nginx; return the paths of both."""
        filler = os.urandom(min(size, MIB))
        paths, static_paths = [], []
        with Client(self.servers[ALONE]) as client:
            for number in range(count):
                answer = client.post("/upload?name=bench-proxied", filler, size=size)
                paths.append(f"/download/{json.loads(answer)['id']}")
                name = f"{size}-{number}"
                with (self.root / name).open("wb") as file:
                    for _ in range(size // len(filler)):
                        file.write(filler)
                static_paths.append(f"/{name}")
        return paths, static_paths


def measure_proxied(plan: Plan) -> Outcome:
    """Small and large files through nginx, beside the node alone and nginx alone."""
    outcome = Outcome()
    with (
        plan.scratch("proxied") as directory,
        plan.scratch("static") as root,
        run_node(directory, settings=SETTINGS) as node,
        run_nginx(root) as static,
        run_proxy(node, directory=directory, blobs=directory / "primary" / "blobs") as proxy,
    ):
        servers = {ALONE: node, PROXIED: proxy.plain, TLS: proxy.tls, STATIC: static}
        ground = Ground(plan, servers, root)
        rows = [
            _measure(case, node, plan, outcome)
            for case in (
                ground.uploads(),
                ground.small_downloads(),
                ground.medium_downloads(),
                ground.large_downloads(),
            )
        ]
        if not re.search(
            rb"^dfs_downloads_handed_over_total [1-9]", get(node, "/metrics")[1], re.M
        ):
            raise BenchError("nginx was left no download to send")
    outcome.tables.append(Table("Behind nginx", HEADER, rows))
    outcome.notes.append(
        "By `deploy/nginx/dfs.conf`, with a listener without TLS besides, on the same two cores as "
        "the node and the clients. Files of 1 MiB and more are sent by nginx, after dfs has found "
        "them sound once in each process; dfs alone checks each block each time. Processor time is "
        "that of nginx and dfs together, a request. No keys are asked for (`DFS_AUTH=off`)."
    )
    return outcome


def _measure(case: Case, node: Server, plan: Plan, outcome: Outcome) -> tuple[str, ...]:
    repeated = {
        who: Repeated(partial(_add_use, load, node) if who in {PROXIED, TLS} else load)
        for who, load in case.loads.items()
    }
    measure_rounds(plan.rounds, list(repeated.values()))
    figures = {
        who: one.keep(f"proxied_{case.name}_{who}", plan.rounds, outcome)
        for who, one in repeated.items()
    }
    ratio = figures[PROXIED].per_s.over(figures[ALONE].per_s)
    outcome.keep(f"proxied_{case.name}_over_alone", ratio)
    cells = {
        who: (
            Series(tuple(case.mib * value for value in one.per_s.values)).format(),
            f"{one.cpu_us.median:,.0f}",
        )
        for who, one in figures.items()
    }
    nothing = ("", "")
    return (
        case.label,
        *cells[ALONE],
        *cells[PROXIED],
        ratio.format(2),
        *cells.get(TLS, nothing),
        *cells.get(STATIC, nothing),
    )


def _add_use(load: Callable[[], Rate], node: Server) -> Rate:
    """Run a load of nginx; the node behind it works for it, too."""
    with watch_use(node.process.pid) as use:
        rate = load()
    return dataclasses.replace(
        rate,
        cpu_us=rate.cpu_us + 1e6 * use.cpu_s / rate.requests,
        rss_peak_bytes=rate.rss_peak_bytes + use.rss_peak_bytes,
    )
