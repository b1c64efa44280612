"""One large file at a time: beside the disk, SHA-256 and nginx."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.load import Client, Rate, repeat
from bench.plan import MIB, Plan
from bench.plots import draw_bars
from bench.reference import hash_alone, write_and_sync
from bench.repeated import Figures, Repeated
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import Server, run_nginx, run_node

PUT_PATH = "/put/large"


@dataclass(slots=True)
class _Large:
    """The loads of one size of file, each with one client."""

    size: int
    seconds: float
    node: Server
    nginx: Server
    static: Path
    filler: bytes
    path: str = ""

    def prepare(self) -> None:
        """Have a file to download on either side."""
        (self.static / "large").write_bytes(self.filler * (self.size // len(self.filler)))
        with Client(self.node) as client:
            self.path = upload(client, self.filler, self.size)

    def upload(self) -> Rate:
        return self._repeat(self.node, lambda client: upload(client, self.filler, self.size))

    def put(self) -> Rate:
        """Upload to nginx, over the same file again and again; it is gone before it is written."""
        rate = self._repeat(
            self.nginx, lambda client: client.send("PUT", PUT_PATH, self.filler, size=self.size)
        )
        (self.static / PUT_PATH[1:]).unlink()
        return rate

    def download(self) -> Rate:
        return self._repeat(self.node, lambda client: download(client, self.path, self.size))

    def get(self) -> Rate:
        return self._repeat(self.nginx, lambda client: download(client, "/large", self.size))

    def _repeat(self, server: Server, work: Callable[[Client], object]) -> Rate:
        return repeat(server, work, clients=1, seconds=self.seconds)


def measure_large(plan: Plan) -> Outcome:
    """MiB a second of 256 MiB files, up and down."""
    outcome = Outcome()
    with (
        plan.scratch("large") as directory,
        plan.scratch("static") as static,
        run_node(directory) as node,
        run_nginx(static) as nginx,
    ):
        large = _Large(plan.large_bytes, plan.seconds, node, nginx, static, os.urandom(MIB))
        large.prepare()
        write = partial(write_and_sync, directory, size=large.size)
        references = (
            partial(write, is_hashed=True),
            write,
            partial(hash_alone, size=large.size),
        )
        up, *loads = map(Repeated, (large.upload, large.put, large.download, large.get))
        timed = (partial(_rate_of, work, plan.seconds / 2) for work in references)
        rates = measure_rounds(plan.rounds, (up, *timed, *loads))[1 : 1 + len(references)]
    _report(plan, (up, *loads), rates, outcome)
    return outcome


def _rate_of(work: Callable[[], float], seconds: float) -> float:
    """Do a piece of work, which says how long it took, for so long. Returns pieces a second."""
    timings: list[float] = []
    while sum(timings) < seconds:
        timings.append(work())
    return len(timings) / sum(timings)


def _report(plan: Plan, loads: tuple[Repeated, ...], rates: list[Series], outcome: Outcome) -> None:
    mib = plan.large_bytes // MIB
    name = f"large_{mib}m"
    up, put, down, static = (
        load.keep(f"{name}_{what}", plan.rounds, outcome)
        for load, what in zip(loads, ("up", "nginx_put", "down", "nginx"), strict=True)
    )
    hashed, disk, digest = (
        outcome.keep(f"{name}_{what}_per_s", rate)
        for rate, what in zip(rates, ("hash_write_sync", "write_sync", "hash"), strict=True)
    )
    up_ratio = outcome.keep(f"{name}_up_over_hash_write_sync", up.per_s.over(hashed))
    down_ratio = outcome.keep(f"{name}_down_over_nginx", down.per_s.over(static.per_s))
    outcome.targets += [
        Target(f"{mib} MiB upload, of SHA-256 and a synced write", up_ratio.median, 0.6),
        Target(f"{mib} MiB download, verified, of nginx's", down_ratio.median, 0.75),
    ]
    rows = [
        _row("upload", up, mib, up.per_s),
        *(
            (label, rate.times(mib).format(), "", "", up.per_s.over(rate).format(2))
            for label, rate in (
                ("SHA-256 + write + fdatasync", hashed),
                ("write + fdatasync", disk),
                ("SHA-256 alone", digest),
            )
        ),
        _row("nginx, PUT", put, mib, up.per_s),
        _row("download, verified", down, mib, down.per_s),
        _row("nginx, sendfile", static, mib, down.per_s),
    ]
    header = ("", "MiB/s", "CPU ms a MiB", "peak RSS MiB", "dfs, of it")
    outcome.tables.append(Table(f"Files of {mib} MiB, one client", header, rows))
    outcome.notes.append(
        "Every upload is different and is stored. The references at the disk are one thread that "
        "writes one new file after the other in pieces of 1 MiB, hashes each piece before it or "
        "does not, and syncs the file; it receives nothing. nginx neither hashes nor syncs. "
        "Downloads come from the page cache on both sides; the client only receives."
    )
    outcome.plots["bench-large.svg"] = draw_bars(
        f"{mib} MiB files, MiB a second",
        ["up", "down"],
        {
            "dfs": [mib * up.per_s.median, mib * down.per_s.median],
            "nginx": [mib * put.per_s.median, mib * static.per_s.median],
            "SHA-256 + write + fdatasync": [mib * hashed.median],
            "write + fdatasync": [mib * disk.median],
        },
    )


def _row(label: str, figures: Figures, mib: int, own: Series) -> tuple[str, ...]:
    return (
        label,
        figures.per_s.times(mib).format(),
        f"{figures.cpu_us.median / 1e3 / mib:.2f}",
        f"{figures.rss_mib.median:.0f}",
        "" if own is figures.per_s else own.over(figures.per_s).format(2),
    )


def upload(client: Client, filler: bytes, size: int) -> str:
    """Upload a new file; return the path to download it from."""
    answer = json.loads(client.post("/upload?name=bench-large", filler, size=size))
    return f"/download/{answer['id']}"


def download(client: Client, path: str, size: int) -> None:
    """Receive a file, and see that all of it came."""
    received = client.get(path)
    if received != size:
        raise AssertionError(f"{received} bytes came instead of {size}")
