"""Files and directories of a node that its user may not read, or not write.

Root may do everything, by two capabilities; who gives them up is held to the modes of files like
any owner. So this is for a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec

from dfs.core.errors import DfsError
from dfs.services import breaker
from dfs.wiring import Services, open_services
from tests.damage.cases import memory, quiet
from tests.damage.look import Verdict, examine, patience, read_all, use, work
from tests.damage.store import Template
from tests.forked import run_forked

FILE_MODES = (0, 0o400)
DIRECTORY_MODES = (0, 0o300, 0o500)
_CAPABILITIES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION = 0x20080522


@dataclass(frozen=True, slots=True)
class Ban:
    """A file or directory, relative to the node, and the mode that it gets."""

    path: str
    mode: int


class Found(msgspec.Struct):
    """What came of a ban; see `look.Verdict`."""

    path: str
    mode: int
    outcome: str
    words: list[str]
    faults: list[str]


def list_bans(template: Template) -> list[Ban]:
    """Return all that may be forbidden of a node."""
    paths = sorted(template.directory.rglob("*"))
    return [
        Ban(str(path.relative_to(template.directory)), mode)
        for path in paths
        for mode in (DIRECTORY_MODES if path.is_dir() else FILE_MODES)
    ]


def run_bans(template: Template, bans: Sequence[Ban]) -> list[Found]:
    """Forbid something of a copy of a node at a time, in a process of its own."""
    done = run_forked(_try_bans, template, bans, timeout_s=60 + 10 * len(bans))
    if done.status:
        raise AssertionError(done.stderr.decode())
    return [msgspec.json.decode(line, type=Found) for line in done.stdout.splitlines()]


def _try_bans(template: Template, bans: Sequence[Ban]) -> None:
    """Do so; print what comes of each."""
    _give_up_capabilities()
    _require_modes_to_count()
    for ban in bans:
        with memory() as directory, quiet():
            found = _try_ban(directory, template, ban)
        sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")
        sys.stdout.flush()


def _try_ban(directory: Path, template: Template, ban: Ban) -> Found:
    template.copy(directory)
    path = directory / ban.path
    before = path.stat().st_mode
    path.chmod(ban.mode)
    verdict = Verdict()
    try:
        with patience(), mock.patch.object(breaker, "PAUSE_MS", 0):
            _look(directory, template, verdict)
    except Exception:
        verdict.faults.append(traceback.format_exc())
    path.chmod(before)
    verdict.faults += [f"afterwards: {fault}" for fault in examine(directory, template).faults]
    return Found(ban.path, ban.mode, verdict.outcome, verdict.words, verdict.faults)


def _look(directory: Path, template: Template, verdict: Verdict) -> None:
    """Start the node, use it and have its jobs work. Raises what dfs should not."""
    try:
        node = open_services(template.config(directory))
    except DfsError as error:
        verdict.outcome = "refused"
        verdict.words.append(str(error))
        if not error.hint or str(directory) not in str(error):
            verdict.faults.append(f"says too little: {error}")
        return
    with contextlib.closing(node):
        use(node, template, verdict)
        work(node)
        verdict.outcome = "told" if _read(node, template, verdict) else "whole"


def _read(node: Services, template: Template, verdict: Verdict) -> list[str]:
    failed = read_all(node, template, verdict)
    if failed and template.has_replica:
        verdict.faults.append(f"is not read, though a replica has all: {failed}")
    return failed


def _give_up_capabilities() -> None:
    """Have this process, and those that it starts, held to the modes of files."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice 32 bits
    calls = [libc.prctl(_PR_CAPBSET_DROP, each, 0, 0, 0) for each in _CAPABILITIES]
    calls.append(libc.capget(header, data))
    for place in range(3):
        data[place] &= ~sum(1 << each for each in _CAPABILITIES)
    calls.append(libc.capset(header, data))
    if any(calls):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _require_modes_to_count() -> None:
    """Raise AssertionError unless this process is held to the modes of files."""
    with memory() as directory:
        path = directory / "file"
        path.touch(mode=0)
        with contextlib.suppress(PermissionError):
            path.read_bytes()
            raise AssertionError("a file of mode 0 can be read")
