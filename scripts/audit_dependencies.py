"""Looks the pinned dependencies up in PyPI's list of known vulnerabilities: `make audit`.

    python -m scripts.audit_dependencies PIP_AUDIT

One is looked up first, and then all: where that service is not to be had, as behind a mirror, the
answer is that nobody knows. Exit status: 0 none is known to be vulnerable, or it could not be
looked up, which is said; 1 some are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
TIMEOUT_S = 300


def read_pins(text: str) -> list[str]:
    """Return the lines NAME==VERSION of a file of constraints."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if "==" in line]


def look_up(program: str, pins: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each; None if it says nothing."""
    with tempfile.TemporaryDirectory() as directory:
        requirements = Path(directory, "requirements.txt")
        requirements.write_text("\n".join(pins))
        command = [program, "--requirement", str(requirements), "--no-deps", "--disable-pip"]
        try:
            result = subprocess.run(
                [*command, "--format", "json", "--progress-spinner", "off"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            found: list[dict[str, Any]] = json.loads(result.stdout)["dependencies"]
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
            return None
    return found


def has_answers(found: Sequence[dict[str, Any]] | None) -> bool:
    """Tell whether any dependency was looked up."""
    return any("skip_reason" not in entry for entry in found or ())


def judge(found: Sequence[dict[str, Any]] | None) -> tuple[int, list[str]]:
    """Return (exit status, what to print)."""
    if found is None or not has_answers(found):
        return 0, ["The dependencies could not be looked up here: nobody knows."]
    known = [entry for entry in found if "skip_reason" not in entry]
    lines = [
        f"{entry['name']} {entry['version']}: {fault['id']}, mended in "
        f"{', '.join(fault['fix_versions']) or 'no version yet'}"
        for entry in known
        for fault in entry["vulns"]
    ]
    skipped = len(found) - len(known)
    rest = f"; {skipped} could not be looked up" if skipped else ""
    return bool(lines), [*lines, f"{len(known)} dependencies were looked up{rest}."]


def main(arguments: Sequence[str]) -> int:
    """Look up, print, and return the exit status."""
    program, pins = arguments[0], read_pins(CONSTRAINTS.read_text())
    found = look_up(program, pins[:1])
    if has_answers(found):
        found = look_up(program, pins)
    status, lines = judge(found)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
