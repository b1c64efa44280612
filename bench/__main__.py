"""Runs the benchmark: `python -m bench [PAGE] [--quick] [--only CELL]`.

A full run writes `docs/PAGE.md`, `docs/PAGE.json` and plots; any other prints its report, and
writes it only where `--output` says. Exit status: 0 done (whether or not the targets
are met), 1 a measurement failed, 2 something is missing.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.ceiling import measure_ceiling
from bench.crowd import measure_crowd
from bench.deletes import measure_deletes
from bench.downloads import measure_downloads
from bench.errors import BenchError
from bench.growth import measure_growth
from bench.large import measure_large
from bench.machine import describe_machine
from bench.memory import measure_memory
from bench.peers import measure_peers
from bench.plan import Plan, full_plan, quick_plan
from bench.proxied import measure_proxied
from bench.replication import measure_replication
from bench.report import format_report, write_report
from bench.results import Outcome
from bench.scale import measure_replay, measure_scale
from bench.servers import NGINX, ROOT
from bench.soak import measure_soak
from bench.space import measure_space
from bench.syncs import measure_syncs
from bench.uploads import measure_uploads
from bench.workers import measure_workers
from dfs.core.logging import configure_logging

Cells = dict[str, Callable[[Plan], Outcome]]

CELLS: Cells = {
    "uploads": measure_uploads,
    "deletes": measure_deletes,
    "downloads": measure_downloads,
    "syncs": measure_syncs,
    "large": measure_large,
    "crowd": measure_crowd,
    "memory": measure_memory,
    "proxied": measure_proxied,
    "replication": measure_replication,
    "replay": measure_replay,
    "scale": measure_scale,
    "space": measure_space,
}
SCALING: Cells = {
    "workers": measure_workers,
    "ceiling": measure_ceiling,
    "growth": measure_growth,
}
PAGES: dict[str, Cells] = {
    "benchmarks": CELLS,
    "scaling": SCALING,
    "soak": {"soak": measure_soak},
    "peers": {"peers": measure_peers},
}
PROGRAMS = ("wrk", NGINX, "strace")
FREE_BYTES_MIN = 24 << 30


def main() -> int:
    """Measure what the command line asks for. Returns the exit status."""
    arguments = _parse_arguments()
    configure_logging()  # to stderr: the report alone is on stdout
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    directory: Path = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        print(
            f"Missing: {', '.join(missing)}. On Debian and Ubuntu: apt install {' '.join(missing)}",
            file=sys.stderr,
        )
        return 2
    if shutil.disk_usage(directory).free < FREE_BYTES_MIN:
        print(f"{directory} has less than {FREE_BYTES_MIN >> 30} GiB free.", file=sys.stderr)
        return 2
    machine = describe_machine(directory)
    plan = (quick_plan if arguments.quick else full_plan)(directory)
    outcomes: dict[str, Outcome] = {}
    try:
        cells = PAGES[arguments.page]
        for name in arguments.only or cells:
            started = time.monotonic()
            outcomes[name] = cells[name](plan)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    except BenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    is_whole = not arguments.quick and not arguments.only
    output = arguments.output or (ROOT / "docs" if is_whole else None)
    if output is not None:
        write_report(output, arguments.page, machine, outcomes)
    print(format_report(arguments.page, machine, outcomes))
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure dfs.")
    parser.add_argument(
        "page",
        nargs="?",
        choices=PAGES,
        help="what to write (default: benchmarks, or of the cells)",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, a few minutes")
    parser.add_argument(
        "--only",
        action="append",
        choices=[name for cells in PAGES.values() for name in cells],
        help="measure this cell of the page; may be repeated",
    )
    parser.add_argument("--output", type=Path, help="directory to write the report to")
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "bench",
        help="where the data goes; on the disk under test (default: build/bench)",
    )
    arguments = parser.parse_args()
    only = set(arguments.only or ())
    if arguments.page is None:
        pages = (page for page, cells in PAGES.items() if only <= cells.keys())
        arguments.page = next(pages, "benchmarks")
    if not only <= PAGES[arguments.page].keys():
        parser.error(f"{arguments.page} has no such cell")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
