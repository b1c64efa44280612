"""Besieges a node of its own: slow clients, clients that go away, and a fuzz of raw sockets.

    python -m tests.hostile.siege [--rounds N] [--disconnects N] [--seconds S] [--seed N]

Needs half a minute for each kind of slow client, and a minute for every 50,000 rounds or so. Exit
status: 0 the node was as well as before after each; else an error says what was wrong.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.hostile.disconnects import disconnect
from tests.hostile.fuzz import fuzz
from tests.hostile.slow import median_s, serve_honest, slow_clients
from tests.hostile.target import SETTLE_S, Target, running_target

SLOW = 200
HONEST = 8
ROUNDS_EACH = 10_000


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description="Besieges a node of its own.")
    parser.add_argument("--rounds", type=int, default=100_000, help="of the fuzz")
    parser.add_argument("--disconnects", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="under slow clients")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-siege-") as directory:
        settings = {"DFS_UPLOADS_PER_CALLER_MAX": "0", "WEB_CONCURRENCY": "2", "DFS_THREADS": "16"}
        with running_target(Path(directory), **settings) as target:
            for kind in ("nothing", "heads", "bodies", "readers"):
                print(besiege(target, kind, given.seconds), flush=True)
            since_s = time.monotonic()
            disconnect(target, given.seed, given.disconnects)
            took_s = time.monotonic() - since_s
            target.check()
            print(f"disconnects: {given.disconnects} in {took_s:.0f} s, nothing left", flush=True)
            for first in range(0, given.rounds, ROUNDS_EACH):
                rounds = min(ROUNDS_EACH, given.rounds - first)
                report = fuzz(target.host, target.port, given.seed + first, rounds)
                print(report, flush=True)
                assert not report.faults
                target.check()


def besiege(target: Target, kind: str, seconds: float) -> str:
    """Serve honest clients without and with slow ones. Returns what came of it."""
    alone = serve_honest(target, clients=HONEST, seconds=seconds / 2)
    with slow_clients(target, kind, SLOW):
        time.sleep(1)
        beside = serve_honest(target, clients=HONEST, seconds=seconds)
        held = target.footprint()
    since_s = time.monotonic()
    target.settle()
    settled_s = time.monotonic() - since_s
    assert settled_s < SETTLE_S
    target.check()
    return (
        f"{SLOW} slow ({kind}): median {1000 * median_s(alone):.1f} ms without, "
        f"{1000 * median_s(beside):.1f} ms and at most {1000 * max(beside):.0f} ms beside them "
        f"({held.threads} threads, {held.sockets} sockets); "
        f"as before {settled_s:.1f} s after they left"
    )


if __name__ == "__main__":
    main()
