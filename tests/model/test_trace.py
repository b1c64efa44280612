"""What the model takes for the calls of dfs to the kernel are its calls to the kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.disk import Disk
from tests.model.explore import exploring
from tests.model.lives import EMPTY
from tests.model.trace_child import work
from tests.model.world import UNWATCHED, WATCHED, Image, Process

NAMES = {
    **dict.fromkeys(("pwrite64", "pwritev", "pwritev2", "write"), "write"),
    **dict.fromkeys(("fsync", "fdatasync"), "sync"),
    "ftruncate": "truncate",
    "rename": "rename",
    "unlink": "unlink",
    "link": "link",
    "mkdir": "mkdir",
    "openat": "open",
    "flock": "flock",
}
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)", re.MULTILINE)
SPLIT = re.compile(
    r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>\n((?:.*\n)*?)\1 +<\.\.\. \2 resumed>(.*)",
    re.MULTILINE,
)
"""A call during which another thread made one."""
CHANCE = re.compile(r"(primary/tmp/|\.dfs\.json\.)[^ ]+")
"""Names of temporary files."""


def read_trace(text: str, directory: Path) -> list[str]:
    """Return the steps that strace has seen below a directory, in the words of the model."""
    steps: list[str] = []
    directories = {"", *(path for path, _ in EMPTY)}
    existing = {*directories}
    whole = SPLIT.sub(r"\1 \2(\3\5\n\4", text)
    for name, arguments, result in CALL.findall(whole):
        kind = NAMES[name]
        paths = [
            path.removeprefix(f"{directory}").lstrip("/")
            for path in re.findall(rf'[<"]({re.escape(str(directory))}[^>"]*)[>"]', arguments)
        ]
        if not paths or int(result) < 0:
            continue
        path = paths[0]
        if kind == "flock":
            if path == "wal/control" and re.search(r"LOCK_EX$|LOCK_UN$", arguments):
                steps.append(f"{'lock' if 'LOCK_EX' in arguments else 'unlock'} control")
            continue
        if kind == "sync" and (not path or f"{path}/".startswith(WATCHED)):
            is_directory = path in directories
            steps.append(f"sync {path}{'/' * is_directory}")
        elif not path.startswith(WATCHED) or path.startswith(UNWATCHED):
            continue
        elif kind == "open":
            if "O_TRUNC" in arguments or ("O_CREAT" in arguments and path not in existing):
                steps.append(f"open {path}")
        elif kind in ("rename", "link"):
            steps.append(f"{kind} {path} {paths[1]}")
        else:
            steps.append(f"{kind} {path}")
        if kind == "mkdir":
            directories.add(path)
        if kind == "open":
            existing.add(path)
    return [CHANCE.sub(r"\1*", step) for step in steps]


@pytest.mark.integration
def test_steps_of_the_model_are_the_calls_that_strace_sees(tmp_path: Path) -> None:
    """No write, sync, rename or lock of log and primary escapes the model, nor is one invented."""
    real = tmp_path / "real"
    for path, _ in EMPTY:
        (real / path).mkdir(parents=True)
    output = tmp_path / "strace"
    subprocess.run(
        [
            *("strace", "-f", "-y", "-o", str(output), "-e", f"trace={','.join(NAMES)}"),
            *(sys.executable, "-m", "tests.model.trace_child", str(real)),
        ],
        check=True,
        timeout=60,
    )
    seen = read_trace(output.read_text(), real)
    modelled: list[str] = []

    def program(process: Process) -> None:
        with process.hastening():
            work(process.world.directory)

    with exploring() as explorer:
        world = explorer.world(Image(Disk(EMPTY, pieces=1)))
        choices = iter([(0, "go")])
        world.run([program], lambda: next(choices, None))
        assert world.processes[0].error is None
        modelled = [
            CHANCE.sub(r"\1*", step)
            for step in world.processes[0].trace
            if step.split()[0] in {*NAMES.values(), "lock", "unlock"}
        ]
    modelled = [step for step in modelled if not re.match(r"(un)?lock (?!control)", step)]
    assert seen == modelled
    assert len(seen) > 50
