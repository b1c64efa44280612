"""The torture: see `docs/reliability.md`.

    python -m torture --rounds 40 --modes async-sqlite,sync-postgresql --seed 7 --json figures.json

Prints what it does and, at the end, one line. Exit status: 0 no promise was broken; 1 some was, and
the directory of that node, with the ledger of what its clients were told, is kept; 2 it cannot run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from torture.faults import CUTS, KILLS
from torture.ledger import Ledger
from torture.life import Life, Options, UnusableError
from torture.report import add_up, describe

MODES = ("async-sqlite", "sync-sqlite", "async-postgresql", "sync-postgresql")
LIFE_ROUNDS_MAX = 6
"""After so many a node begins anew: what is left behind is looked for at the end of a life."""


def run_life(options: Options) -> dict[str, Any]:
    """Run one life in a new directory. Returns its figures; `findings` are empty if all is well."""
    started_s = time.monotonic()
    options.directory.mkdir(parents=True)
    ledger = Ledger(options.directory / "ledger.jsonl")
    life = Life(options, ledger)
    try:
        with suppress(UnusableError):
            life.run()
    finally:
        ledger.close()
    tally = life.tally
    return {
        "rounds": tally.rounds,
        "kills": sum(tally.faults[kind] for kind in KILLS),
        "power_cuts": sum(tally.faults[kind] for kind in CUTS),
        "faults": dict(sorted(tally.faults.items())),
        "operations_hit": tally.hits,
        "acknowledged": dict(sorted(ledger.acknowledged.items())),
        "answers": dict(sorted(ledger.answers.items())),
        "files": tally.files,
        "downloads_checked": tally.downloads,
        "findings": asdict(ledger.findings),
        "phases": {name: round(seconds, 1) for name, seconds in tally.seconds.items()},
        "seconds": round(time.monotonic() - started_s, 1),
    }


def plan_lives(options: Options, *, modes: Sequence[str]) -> Iterator[tuple[str, Options]]:
    """Yield (mode, its options) of each life, until every mode has its rounds."""
    for begun in range(0, options.rounds, LIFE_ROUNDS_MAX):
        for mode in modes:
            yield (
                mode,
                replace(
                    options,
                    directory=options.directory / f"{mode}-{begun}",
                    rounds=min(LIFE_ROUNDS_MAX, options.rounds - begun),
                    seed=options.seed + begun,
                    sync=mode.startswith("sync"),
                    postgres=mode.endswith("postgresql"),
                ),
            )


def run(options: Options, *, modes: Sequence[str], figures: Path | None) -> int:
    """Run all lives. Returns the exit status."""
    runs: list[dict[str, Any]] = []
    for mode, own in plan_lives(options, modes=modes):
        print(f"{mode}, seed {own.seed}: {own.rounds} rounds ...", flush=True)
        found = {"mode": mode, "seed": own.seed, **run_life(own)}
        runs.append(found)
        print(f"  {describe(add_up([found]))}", flush=True)
        if figures is not None:
            known = json.loads(figures.read_text()) if figures.exists() else []
            figures.write_text(json.dumps([*known, found], indent=1) + "\n")
        if any(found["findings"].values()):
            for kind, texts in found["findings"].items():
                print("".join(f"  {kind}: {text}\n" for text in texts[:20]), end="")
            print(f"  kept: {own.directory}")
        else:
            shutil.rmtree(own.directory)
    total = add_up(runs)
    print(f"torture: {describe(total)}")
    return 0 if total["rounds"] and not any(total["findings"].values()) else 1


def parse_options(arguments: Sequence[str] | None) -> tuple[Options, list[str], Path | None]:
    """Return what the command line says: (options, modes, file for the figures)."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="of each mode")
    parser.add_argument("--modes", default=",".join(MODES), help="some of the default")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    parser.add_argument("--faults", type=int, default=8, help="in each round")
    parser.add_argument("--kinds", default="", help="of faults, separated by commas; else all")
    parser.add_argument("--load-s", type=float, default=8.0, help="seconds of load in a round")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--operations-per-s", type=float, default=60.0)
    parser.add_argument("--no-late", action="store_true", help="spare the look at what is left")
    parser.add_argument("--directory", type=Path, help="for the nodes; else a temporary one")
    parser.add_argument("--json", type=Path, help="file to add the figures of each life to")
    given = parser.parse_args(arguments)
    modes = given.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(unknown)}")
    directory = given.directory or Path(tempfile.mkdtemp(prefix="dfs-torture-"))
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)  # a database may run as another user
    options = Options(
        directory=directory.absolute(),
        rounds=given.rounds,
        seed=given.seed,
        load_s=given.load_s,
        faults=given.faults,
        clients=given.clients,
        operations_per_s=given.operations_per_s,
        kinds=tuple(filter(None, given.kinds.split(","))),
        is_late=not given.no_late,
    )
    return options, modes, given.json


def end_in_order(signal_number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end the torture as Ctrl-C does: with nothing left behind."""
    raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    options, modes, figures = parse_options(arguments)
    signal.signal(signal.SIGTERM, end_in_order)
    if shutil.which("gcc") is None:
        print("The torture needs a C compiler. On Debian: apt install gcc libc6-dev")
        return 2
    print(f"seed {options.seed}", flush=True)
    return run(options, modes=modes, figures=figures)


if __name__ == "__main__":
    sys.exit(main())
