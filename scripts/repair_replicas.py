"""Looks whether every store of the node holds what it must, and mends it if asked to.

    python -m scripts.repair_replicas [--store NAME] [--verify full|quick] [--json] [--apply]

Works while the node runs and when it is stopped. Without `--apply` nothing is changed. With it,
what is damaged is put aside (moved to `damaged/` of its store) and copied anew from a store that
has it whole, what is missing is copied, and what nobody knows and is older than DFS_DELETE_GRACE_S
is put aside; then everything is looked at once more, and that look is the one that counts.

Exit status: 0 = clean, 1 = something was found, 2 = it could not be told.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dfs.core.clock import now_ms
from dfs.core.config import load_config
from dfs.core.errors import DfsError, WalGapError
from dfs.core.filelock import FileLock
from dfs.core.logging import configure_logging, style_of
from dfs.core.model import DebtKind
from dfs.core.modes import keep_files_private
from dfs.db.repository import IndexRepository
from dfs.services.quarantine import Quarantine
from dfs.services.repair import Repair, StoreLook
from dfs.services.replication import store_lock_path
from dfs.services.survey import Extent, Survey
from dfs.services.verification import Fault
from dfs.wal.layout import Situation, find_situation
from dfs.wiring import Services, open_services
from scripts.progress import ProgressLine, format_bytes

CLEAN, FOUND, UNKNOWN = 0, 1, 2
RESULTS = {CLEAN: "clean", FOUND: "found", UNKNOWN: "unknown"}
LISTED_MAX = 20
_HEADINGS = ("store", "what", "looked at", *(fault.value for fault in Fault))
_KINDS = {DebtKind.BLOB: "blobs", DebtKind.SEGMENT: "segments"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    options = parse_arguments(arguments)
    try:
        config = load_config()
        configure_logging(style_of(config).quieter(logging.ERROR))
        require_node(config.wal_path)
        services = open_services(config)
        try:
            return run(services, options)
        finally:
            services.close()
    except DfsError as error:
        if options.json:
            print(json.dumps({"result": RESULTS[UNKNOWN], "error": str(error)}))
        sys.stderr.write(f"repair_replicas: {error}\n")
        return UNKNOWN


def require_node(wal_path: Path) -> None:
    """Refuse to make a new node, or to rebuild a lost one: whoever only looks wants neither.

    Raises:
        WalGapError: there is no log.
    """
    if find_situation(wal_path) is Situation.EMPTY:
        raise WalGapError(
            "There is no node here: its log is missing.",
            hint="Run this with the settings of the node, in its directory. If the log was lost, "
            "start the node first: that rebuilds it from a replica.",
            path=wal_path,
        )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options: store, verify, json, apply."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.repair_replicas",
        description="Looks whether every store holds what it must; mends it with --apply.",
        epilog="Exit status: 0 = clean, 1 = something was found, 2 = it could not be told.",
    )
    parser.add_argument("--store", metavar="NAME", help="only this store: primary, replica1, ...")
    parser.add_argument(
        "--verify",
        choices=("full", "quick"),
        default="full",
        help="full: read every byte; quick: look for existence and size (default: full)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--apply", action="store_true", help="mend what is found, then look again")
    return parser.parse_args(arguments)


def run(services: Services, options: argparse.Namespace) -> int:
    """Look, mend if asked to, look again, and print what was seen. Returns the exit status.

    Raises:
        DfsError: there is no such store, or the node does not do its part.
    """
    locks = {
        name: FileLock(store_lock_path(services.config.wal_path, name))
        for name in services.stores.replicas
    }
    try:
        return run_repair(build_repair(services, locks), services, options)
    finally:
        for lock in locks.values():
            lock.close()


def run_repair(repair: Repair, services: Services, options: argparse.Namespace) -> int:
    """As `run`."""
    names = [store.name for store in services.stores.all()]
    if options.store is not None:
        names = [services.stores.get(options.store).name]
    looks = look_at(repair, names, full=options.verify == "full")
    before: list[StoreLook] | None = None
    failures: list[str] = []
    if options.apply and any(look.findings for look in looks):
        before = looks
        failures = repair.mend([look for look in looks if look.error is None])
        looks = look_at(repair, names, full=options.verify == "full", owed_before_ms=now_ms())
    status = find_status(looks)
    if options.json:
        print(json.dumps(as_json(looks, before, failures, status, options.verify), indent=2))
        return status
    if before is not None:
        print_looks(before)
        print("\nMended. Looking again:")
    print_looks(looks)
    for failure in failures:
        print(f"not done: {failure}")
    print(conclude(looks, status, is_applied=options.apply))
    return status


def build_repair(services: Services, locks: Mapping[str, FileLock]) -> Repair:
    """Return what does the work, from the services of a node."""
    index = IndexRepository(services.index)
    survey = Survey(
        log=services.log,
        index=index,
        stores=services.stores,
        cluster_id=services.recovered.cluster_id,
        orphan_age_s=services.config.delete_grace_s,
    )
    quarantine = Quarantine(
        survey=survey,
        log=services.log,
        index=index,
        ledger=services.ledger,
        stores=services.stores,
        locks=locks,
    )
    return Repair(
        survey=survey,
        quarantine=quarantine,
        replication=services.replication,
        stores=services.stores,
    )


def look_at(
    repair: Repair, names: Sequence[str], *, full: bool, owed_before_ms: int | None = None
) -> list[StoreLook]:
    """Return a look at each store, and show how it goes on. Arguments as for `Repair.look`."""
    progress = ProgressLine(sys.stderr)

    def show(name: str, done: Extent, total: Extent) -> None:
        if full:
            progress.show(name, done.bytes, total.bytes, is_bytes=True)
        else:
            progress.show(name, done.units, total.units, is_bytes=False)

    try:
        return [
            repair.look(name, full=full, on_look=show, owed_before_ms=owed_before_ms)
            for name in names
        ]
    finally:
        progress.clear()


def find_status(looks: Sequence[StoreLook]) -> int:
    """Return the exit status: not to know is worse than to have found something."""
    if any(look.error is not None for look in looks):
        return UNKNOWN
    return FOUND if any(look.findings for look in looks) else CLEAN


# Printing


def print_looks(looks: Sequence[StoreLook]) -> None:
    """Print a table, a row a store and kind, and then the findings one by one."""
    rows = [_HEADINGS, *(row for look in looks for row in _rows(look))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for look in looks:
        if look.error is not None:
            print(f"{look.store}: could not be looked at: {look.error}")
        for found in look.findings[:LISTED_MAX]:
            kind = found.kind.name.lower()
            print(f"{look.store}: {kind} {found.name}: {found.fault.value}: {found.detail}")
        if len(look.findings) > LISTED_MAX:
            left = len(look.findings) - LISTED_MAX
            print(f"{look.store}: and {left} more; --json lists them all")


def conclude(looks: Sequence[StoreLook], status: int, *, is_applied: bool) -> str:
    """Return the last line."""
    read = format_bytes(sum(look.bytes for look in looks))
    if status == CLEAN:
        owed = sum(look.owed for look in looks)
        rest = f" {owed} copies are on their way." if owed else ""
        return f"Clean: {read} looked at.{rest}"
    if status == UNKNOWN:
        return "It could not be told: see above."
    return "Not clean." if is_applied else "Not clean. With --apply it is mended."


def as_json(
    looks: Sequence[StoreLook],
    before: Sequence[StoreLook] | None,
    failures: Sequence[str],
    status: int,
    verify: str,
) -> dict[str, Any]:
    """Return what was seen, for programs: `before` is what it was like before it was mended."""
    return {
        "result": RESULTS[status],
        "verify": verify,
        "stores": [_look_as_json(look) for look in looks],
        "before": None if before is None else [_look_as_json(look) for look in before],
        "failures": list(failures),
    }


def _look_as_json(look: StoreLook) -> dict[str, Any]:
    return {
        "store": look.store,
        "error": look.error,
        "blobs": look.looked_at[DebtKind.BLOB],
        "segments": look.looked_at[DebtKind.SEGMENT],
        "bytes": look.bytes,
        "owed": look.owed,
        "findings": [
            {
                "kind": found.kind.name.lower(),
                "unit": found.name,
                "fault": found.fault.value,
                "size": found.size,
                "detail": found.detail,
            }
            for found in look.findings
        ],
    }


def _rows(look: StoreLook) -> list[tuple[str, ...]]:
    return [
        (
            look.store,
            name,
            f"{look.looked_at[kind]:,}" if look.error is None else "?",
            *(f"{look.count(kind, fault):,}" for fault in Fault),
        )
        for kind, name in _KINDS.items()
    ]


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
