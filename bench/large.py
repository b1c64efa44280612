"""Large files: throughput against plain writing and against nginx, and the memory they take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.load import Client, repeat
from bench.plan import MIB, Plan
from bench.processes import watch_growth
from bench.reference import write_and_sync
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import Server, run_nginx, run_node

MEDIUM_BYTES = MIB
MEDIUM_CLIENTS = 4


def measure_throughput(plan: Plan) -> Outcome:
    """MiB a second of 1 MiB and 256 MiB files, up and down."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with (
        plan.scratch("large") as directory,
        plan.scratch("static") as static,
        run_node(directory) as node,
        run_nginx(static) as nginx,
    ):
        for size, clients in ((MEDIUM_BYTES, MEDIUM_CLIENTS), (plan.large_bytes, 1)):
            name = f"{size // MIB}m"
            (static / name).write_bytes(os.urandom(MIB) * (size // MIB))
            rows.append(
                _measure_size(
                    size,
                    clients=clients,
                    plan=plan,
                    node=node,
                    nginx=nginx,
                    directory=directory,
                    outcome=outcome,
                )
            )
    header = (
        "size",
        "clients",
        "dfs up",
        "write + fdatasync",
        "ratio",
        "dfs down, verified",
        "nginx, sendfile",
        "ratio",
    )
    outcome.tables.append(Table("Large files, MiB/s", header, rows))
    outcome.notes.append(
        "Every upload is different and is stored. The reference writes one new file after the "
        "other from one thread, in pieces of 1 MiB, and syncs each; it neither receives nor "
        "hashes. Downloads come from the page cache on both sides; the client only receives."
    )
    return outcome


def _measure_size(
    size: int,
    *,
    clients: int,
    plan: Plan,
    node: Server,
    nginx: Server,
    directory: Path,
    outcome: Outcome,
) -> tuple[str, ...]:
    filler = os.urandom(MIB)
    mib = size // MIB
    with Client(node) as client:
        path = _upload(client, filler, size)

    def rate_of(server: Server, work: Callable[[Client], object]) -> float:
        return mib * repeat(server, work, clients=clients, seconds=plan.seconds).per_s

    def rate_of_disk() -> float:
        count = max(1, int(plan.seconds * 100) // mib)
        return mib * count / sum(write_and_sync(directory, size=size) for _ in range(count))

    up, disk, down, static = measure_rounds(
        plan.rounds,
        (
            partial(rate_of, node, lambda client: _upload(client, filler, size)),
            rate_of_disk,
            partial(rate_of, node, lambda client: _download(client, path, size)),
            partial(rate_of, nginx, lambda client: _download(client, f"/{mib}m", size)),
        ),
    )
    for name, series in (("up", up), ("write_sync", disk), ("down", down), ("nginx", static)):
        outcome.keep(f"large_{mib}m_{name}_mib_per_s", series)
    up_ratio = outcome.keep(f"large_{mib}m_up_over_write_sync", up.over(disk))
    down_ratio = outcome.keep(f"large_{mib}m_down_over_nginx", down.over(static))
    if size == plan.large_bytes:
        outcome.targets.append(
            Target(f"{mib} MiB download, verified, of nginx's", down_ratio.median, 0.5)
        )
    return (
        f"{mib} MiB",
        str(clients),
        up.format(),
        disk.format(),
        up_ratio.format(2),
        down.format(),
        static.format(),
        down_ratio.format(2),
    )


def measure_memory(plan: Plan) -> Outcome:
    """Growth of the memory of all processes of a node while it takes in and gives out 1 GiB."""
    outcome = Outcome()
    filler = os.urandom(MIB)
    rows: list[tuple[str, ...]] = []
    with plan.scratch("memory") as directory, run_node(directory) as node, Client(node) as client:
        for _ in range(50):  # so that what every worker loads once is there
            with Client(node) as small:
                _download(small, _upload(small, filler, 4096), 4096)
        with watch_growth(node.process.pid) as up:
            path = _upload(client, filler, plan.huge_bytes)
        with watch_growth(node.process.pid) as down:
            _download(client, path, plan.huge_bytes)
    for name, growth in (("upload", up), ("download", down)):
        rows.append((name, f"{growth.pss / MIB:.1f}", f"{growth.rss / MIB:.1f}"))
        outcome.keep(f"memory_{name}_pss_mib", Series((growth.pss / MIB,)))
        outcome.keep(f"memory_{name}_rss_mib", Series((growth.rss / MIB,)))
        outcome.targets.append(
            Target(
                f"memory growth, {plan.huge_bytes // MIB} MiB {name}",
                growth.pss / MIB,
                64,
                unit="MiB",
                at_most=True,
                digits=1,
            )
        )
    header = ("", "growth of PSS, MiB", "growth of RSS, MiB")
    outcome.tables.append(Table(f"Memory during {plan.huge_bytes // MIB} MiB", header, rows))
    return outcome


def _upload(client: Client, filler: bytes, size: int) -> str:
    """Upload a new file; return the path to download it from."""
    answer = json.loads(client.post("/upload?name=bench-large", filler, size=size))
    return f"/download/{answer['id']}"


def _download(client: Client, path: str, size: int) -> None:
    received = client.get(path)
    if received != size:
        raise AssertionError(f"{received} bytes came instead of {size}")
