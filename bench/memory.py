"""The memory of a node."""

from __future__ import annotations

import os

from bench.large import download, upload
from bench.load import Client
from bench.plan import MIB, Plan
from bench.processes import watch_growth
from bench.results import Outcome, Series, Table, Target
from bench.servers import run_node


def measure_memory(plan: Plan) -> Outcome:
    """Growth of the memory of all processes of a node while it takes in and gives out 1 GiB."""
    outcome = Outcome()
    filler = os.urandom(MIB)
    rows: list[tuple[str, ...]] = []
    with plan.scratch("memory") as directory, run_node(directory) as node, Client(node) as client:
        for _ in range(50):  # so that what every worker loads once is there
            with Client(node) as small:
                download(small, upload(small, filler, 4096), 4096)
        with watch_growth(node.process.pid) as up:
            path = upload(client, filler, plan.huge_bytes)
        with watch_growth(node.process.pid) as down:
            download(client, path, plan.huge_bytes)
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
