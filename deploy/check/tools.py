"""Holds the files of a deployment against the tools that read them: `make deploy-check`.

    python -m deploy.check.tools build/deploy-check

hadolint for the Dockerfile, `docker compose config` for docker-compose.yml with all profiles (it
needs no engine), kubernetes-validate for the manifests, and systemd-analyze, if it is there, for
the units.

Exit status: 0 they found nothing, 1 they did.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ("node.yaml", "service.yaml", "guard.yaml")
EXPOSURE_MAX = 15
"""In tenths, as `systemd-analyze security --threshold` takes it."""


def list_commands(tools: Path, scratch: Path) -> Iterator[list[str]]:
    """Yield the commands, whose exit status must be 0.

    Args:
        tools: the virtual environment with the programs.
        scratch: an empty directory.
    """
    yield [str(tools / "bin/hadolint"), "Dockerfile"]
    yield [*find_compose(tools), "--profile", "*", "config", "--quiet"]
    manifests = write_manifests(scratch)
    yield [str(tools / "bin/kubernetes-validate"), "--strict", "--quiet", *manifests]
    if shutil.which("systemd-analyze"):
        units = write_units(scratch)
        yield ["systemd-analyze", "verify", *units]
        services = [unit for unit in units if unit.endswith(".service")]
        yield ["systemd-analyze", "security", "--offline=yes", "--no-pager",
               f"--threshold={EXPOSURE_MAX}", *services]  # fmt: skip


def find_compose(tools: Path) -> list[str]:
    """Return the command of this machine's own Compose, else of the one that came by pip."""
    own = ["docker", "compose"]
    if shutil.which("docker") and not run([*own, "version"]).returncode:
        return own
    (program,) = tools.glob("lib/python3*/site-packages/compose/docker-compose")
    return [str(program)]


def write_manifests(scratch: Path) -> list[str]:
    """Write each object into a file of its own, what is written once spelled out everywhere."""
    paths = []
    for name in MANIFESTS:
        text = (ROOT / "deploy/kubernetes" / name).read_text()
        for number, manifest in enumerate(yaml.safe_load_all(text)):
            path = scratch / f"{number}-{name}"
            path.write_text(json.dumps(manifest))  # which is YAML without aliases
            paths.append(str(path))
    return paths


def write_units(scratch: Path) -> list[str]:
    """Write the units with programs that this machine has."""
    paths = []
    for source in sorted((ROOT / "deploy/systemd").iterdir()):
        if source.suffix in (".service", ".target"):
            path = scratch / source.name
            path.write_text(source.read_text().replace("/opt/dfs/.venv/bin/", "/usr/bin/env "))
            paths.append(str(path))
    return paths


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, with its output kept."""
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def main() -> int:
    """Run all commands. Returns the exit status."""
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for command in list_commands(Path(sys.argv[1]).absolute(), Path(scratch)):
            done = run(command)
            # `verify` has nothing to say of a good unit, and status 0 for many a bad one.
            is_well = done.returncode == 0 and not (command[1] == "verify" and done.stdout)
            print(f"{'ok' if is_well else 'FAILED'}: {' '.join(command)[:120]}")
            if not is_well:
                print(done.stdout[-4000:])
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
