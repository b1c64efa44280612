"""The long form of the model.

    python -m tests.model [--crashes 2] [SCENARIO ...]

Tries the scenarios (`scenarios.py`; all of them if none is named) with so many crashes one after
the other, and prints how much that was: a line of JSON each. Exit status: 0 if every promise held.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict

from tests.model.explore import exploring
from tests.model.lives import run_scenario
from tests.model.scenario import Violation
from tests.model.scenarios import ALL


def main(arguments: list[str] | None = None) -> int:
    """Try scenarios. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--crashes", type=int, default=2, help="one after the other")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(ALL))
    options = parser.parse_args(arguments)
    for name in options.scenarios or ALL:
        began_s = time.monotonic()
        with exploring() as explorer:
            try:
                run_scenario(explorer, ALL[name], crashes_max=options.crashes)
            except Violation as error:
                sys.stderr.write(f"{name}: {error}\n{error.__notes__[0]}\n")
                return 1
            seconds = round(time.monotonic() - began_s, 1)
            report = {"scenario": name, "crashes": options.crashes, **asdict(explorer.tally)}
            sys.stdout.write(json.dumps({**report, "seconds": seconds}) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
