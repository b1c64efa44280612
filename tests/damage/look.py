"""Starting a damaged node, and asking of it everything that may be asked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from unittest import mock

from dfs.core.errors import DfsError, IndexDamagedError
from dfs.services import breaker
from dfs.wiring import Services, open_services
from scripts.repair_replicas import parse_arguments, run
from tests.damage.store import Template
from tests.services.conftest import store_bytes

PATIENCE_S = 120
TURNS_MAX = 20
COMMAND = re.compile(r"`mv (\S+) (\S+)`")


class HangsError(BaseException):
    """It did not come to an end. No code of the node may catch it."""


@dataclass(slots=True)
class Verdict:
    """What came of one harm.

    Attributes:
        outcome: "whole" (all files can be read, at once or when what is owed is paid), "told" (the
            reads of some say that they cannot), "refused" (the start does, and says why).
        words: what was said. faults: promises that were broken.
    """

    outcome: str = ""
    words: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def examine(directory: Path, template: Template) -> Verdict:
    """Start a node, read everything, write, mend it as it says itself, and read again."""
    verdict = Verdict()
    try:
        with patience(), mock.patch.object(breaker, "PAUSE_MS", 0):
            _examine(directory, template, verdict)
    except HangsError as error:
        verdict.faults.append(f"hangs: {error}")
    except Exception:
        verdict.faults.append(traceback.format_exc())
    return verdict


def _examine(directory: Path, template: Template, verdict: Verdict) -> None:
    """Do so. Raises what dfs should not."""
    for step in (use, _mend):
        node = _open(directory, template, verdict)
        if node is None:
            verdict.outcome = "refused"
            return
        try:
            step(node, template, verdict)
        finally:
            node.close()


def _open(directory: Path, template: Template, verdict: Verdict) -> Services | None:
    """Open the node; where it refuses, do what it says and try again."""
    config = template.config(directory)
    try:
        return open_services(config)
    except DfsError as error:
        verdict.words.append(f"start: {error.code}: {error}")
        if _follow_hint(error, directory):
            return open_services(config)
        if not error.hint or "path" not in error.context:
            verdict.faults.append(f"says too little: {error}")
        elif template.has_replica:
            verdict.faults.append(f"refuses, though a replica has all: {error}")
        return None


def _follow_hint(error: DfsError, directory: Path) -> bool:
    """Run the command that an error names; return whether it names one."""
    command = COMMAND.search(str(error))
    if command is None:
        return False
    if not all(Path(path).is_relative_to(directory) for path in command.groups()):
        raise ValueError(f"a command that touches other directories: {command[0]}")
    Path(command[1]).rename(command[2])
    return True


def use(node: Services, template: Template, verdict: Verdict) -> None:
    """Read all that was stored, and write something."""
    read_all(node, template, verdict)
    for content in (b"new", b"new" * 1000):
        try:
            stored = store_bytes(node, "new", content).files[0]
            node.files.delete(stored.id)
        except DfsError as error:
            verdict.words.append(f"write: {error.code}: {error}")


def _mend(node: Services, template: Template, verdict: Verdict) -> None:
    """Have all mended, if there is a replica, and read all again."""
    if template.has_replica:
        work(node)
        for store in node.stores.all():
            try:
                store.read_identity()
            except DfsError as error:
                verdict.words.append(f"{store.name}: {error.code}: {error}")
                _follow_hint(error, node.config.wal_path.parent)
                work(node)
        _repair(node, "--apply")
        work(node)
        said = _repair(node)
        if said is not None:
            verdict.faults.append(f"is not mended: {said}")
    failed = read_all(node, template, verdict)
    verdict.outcome = "told" if failed else "whole"
    if failed and template.has_replica:
        verdict.faults.append(f"is not mended, though a replica has all: {failed}")


def work(node: Services) -> None:
    """Have what is owed paid, as the jobs do."""
    for _ in range(TURNS_MAX):
        reports = [node.replication.work(each.name, budget_s=5) for each in node.stores.all()]
        if not any(report.more for report in reports):
            return


def _repair(node: Services, *arguments: str) -> str | None:
    """Run the script; return what it prints if not all is clean."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = run(node, parse_arguments(arguments))
    return output.getvalue() if status else None


def read_all(node: Services, template: Template, verdict: Verdict) -> list[str]:
    """Read every file. Returns what was said of those that cannot be read."""
    failed: list[str] = []
    try:
        node.files.list(limit=100)
    except IndexDamagedError as error:
        verdict.words.append(f"list: {error.code}: {error}")
        return [str(error)]
    found = {file.id for file in node.files.list(limit=100).files}
    trash = {file.id for file in node.files.list(limit=100, deleted=True).files}
    verdict.faults += [f"{file_id} is lost" for file_id in template.files.keys() - found]
    if not template.trash <= trash or template.trash & found:
        verdict.faults.append(f"in the trash is {trash}, not {template.trash}")
    for file_id in template.files.keys() & found:
        try:
            content = read_file(node, file_id)
        except DfsError as error:
            failed.append(f"read: {error.code}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() != template.files[file_id]:
            verdict.faults.append(f"{file_id} is read with wrong bytes")
    verdict.words += failed
    return failed


def read_file(node: Services, file_id: str) -> bytes:
    """Read a file as a client does. Raises DfsError."""
    download = node.files.open(file_id)
    try:
        return b"".join(download.read(0, download.file.size))
    finally:
        download.close()


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Raise HangsError if the block takes too long, whatever it waits for."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise HangsError("".join(traceback.format_stack(frame)[-4:]))

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
