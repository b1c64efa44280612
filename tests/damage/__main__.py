"""The long form of the damage: every harm to every file of a node.

    python -m tests.damage [--sample 4 | --every-byte] [PART ...]

Builds nodes with files of every sort, with and without a replica, closed in good order and killed;
damages one file of a copy at a time (`harm.py`) and looks at what comes of it (`look.py`). PART
chooses files by a part of their path; `rows` stands for the values in the rows of the index
(`rows.py`), `modes` for what is forbidden to the user (`forbidden.py`). Prints each broken promise,
and in the end what became of how many. Exit status: 0 if every promise held.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.damage.cases import bounded, list_cases, memory, quiet, try_case
from tests.damage.forbidden import list_bans, run_bans
from tests.damage.rows import build_rows, list_row_harms, try_rows
from tests.damage.store import build


def main(arguments: list[str] | None = None) -> int:
    """Try it all. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.damage")
    parser.add_argument("--sample", type=int, default=4, help="bytes flipped in each file")
    parser.add_argument("--every-byte", action="store_true", help="flip each byte of each file")
    parser.add_argument("parts", nargs="*", metavar="PART")
    options = parser.parse_args(arguments)
    sample = None if options.every_byte else options.sample
    outcomes: Counter[tuple[bool, str]] = Counter()
    faults = 0
    with bounded():
        for has_replica, is_killed in ((True, False), (True, True), (False, False), (False, True)):
            with memory() as directory, quiet():
                template = build(directory, has_replica=has_replica, is_killed=is_killed)
                for case in list_cases(template, sample=sample):
                    if options.parts and not any(part in case.path for part in options.parts):
                        continue
                    verdict = try_case(template, case, sample=sample)
                    outcomes[has_replica, verdict.outcome] += 1
                    faults += bool(verdict.faults)
                    for fault in verdict.faults:
                        where = f"replica {has_replica}, killed {is_killed}"
                        sys.stdout.write(f"{case.path}: {case.harm} ({where}): {fault}\n")
                    sys.stdout.flush()
    if not options.parts or "rows" in options.parts:
        faults += try_all_rows()
    if not options.parts or "modes" in options.parts:
        faults += try_all_bans()
    for (has_replica, outcome), count in sorted(outcomes.items()):
        kind = "with a replica" if has_replica else "without"
        sys.stdout.write(f"{kind}, {outcome or 'no end'}: {count}\n")
    return 1 if faults else 0


def try_all_rows() -> int:
    """Try all that may befall values in the index. Returns how many of them broke a promise."""
    broken = 0
    with memory() as directory, quiet():
        template = build_rows(directory)
        names = list(list_row_harms(template))
        for name, found in try_rows(template, names):
            broken += bool(found)
            for fault in found:
                sys.stdout.write(f"{name}: {fault}\n")
            sys.stdout.flush()
    sys.stdout.write(f"values in the index: {len(names)}\n")
    return broken


def try_all_bans() -> int:
    """Try all that may be forbidden to the user. Returns how many broke a promise."""
    broken = 0
    outcomes: Counter[tuple[bool, str]] = Counter()
    for has_replica in (True, False):
        with memory() as directory, quiet():
            template = build(directory, has_replica=has_replica, is_killed=False)
            for found in run_bans(template, list_bans(template)):
                outcomes[has_replica, found.outcome] += 1
                broken += bool(found.faults)
                for fault in found.faults:
                    sys.stdout.write(f"{found.path}: mode {found.mode:o}: {fault}\n")
    sys.stdout.write(f"modes of files: {dict(outcomes)}\n")
    return broken


if __name__ == "__main__":
    sys.exit(main())
