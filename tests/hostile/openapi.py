"""What the OpenAPI document promises, held against a whole node by schemathesis, with all checks.

    python -m tests.hostile.openapi [--seconds S] [--seed N]

Exit status: that of schemathesis, 0 if it found nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.project.nodes import program_environ, running_node

CONFIG = Path(__file__).with_name("schemathesis.toml")
REVOKE = ("--include-name", "DELETE /admin/keys/{key_id}")
ALL_BUT_REVOKE = ("--exclude-name", REVOKE[1])


def hold_against(
    directory: Path, *, seconds: int, seed: int, examples: int | None = None
) -> tuple[int, str]:
    """Start a node with keys, and have schemathesis send what its document allows, and forbids.

    Keys are revoked last, and by a key of its own: the one that is used would be revoked, too.

    Args:
        seconds: how long it may take, about.
        examples: of each operation, at most; None: as many as there is time for.

    Returns:
        Exit status and output of the first run that found something, or of the last.
    """
    token, other = make_token(directory), make_token(directory)
    with running_node(directory) as node:
        for selection, holder, share in ((ALL_BUT_REVOKE, token, 0.9), (REVOKE, other, 0.1)):
            command = [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
                *(f"{node.url}/openapi.json", "--header", f"Authorization: Bearer {holder}"),
                *("--checks", "all", "--continue-on-failure", "--no-color"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--workers", "1"),
                *("--seed", str(seed), "--max-time", str(max(2, round(seconds * share)))),
                *("--request-timeout", "20", "--warnings", "off", *selection),
            ]
            if examples is not None:
                command += ["--max-examples", str(examples)]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False
            )
            if done.returncode:
                break
    return done.returncode, done.stdout + done.stderr


def make_token(directory: Path) -> str:
    """Make a key that may do everything. Returns its token."""
    command = [sys.executable, "-m", "scripts.keys", "create", "--name", "schemathesis"]
    environ = program_environ(directory, {})
    done = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, check=True
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("dfs_"))


def main() -> int:
    """Run it. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Holds a node against its OpenAPI document.")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-openapi-") as directory:
        status, output = hold_against(Path(directory), seconds=given.seconds, seed=given.seed)
    print(output)
    return status


if __name__ == "__main__":
    sys.exit(main())
