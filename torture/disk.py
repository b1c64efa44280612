"""The disk of a torture: a directory whose users can be given faults, and lose their power.

A layer, written in C and preloaded into the processes of the node, does two things to all that lies
below the directory. It writes down what was there before each change, and what was synced, so that
a power cut can take back what was not (`power`). And it has operations fail, be slow, find the disk
full, or see another time, as a page of shared memory orders. Nothing else is needed: no privileges,
no kernel module, and files are where they are, at their usual speed.

What it does not see: changes through a memory mapping (the log's control file, SQLite's index of
its log: neither is believed after a power cut), and the renaming of directories.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
import subprocess
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torture.power import Loss, lose_unsynced, settle

SOURCES = Path(__file__).with_name("layer")
WRITE, SYNC, NAME, SPACE = 1, 2, 4, 8
FOR_EVER = 1 << 40
_SHIFT = struct.Struct("<q")
_RULE = struct.Struct("<IIqqIIQ216s")
_RULE_OFFSET, _RULES = 16, 15
_FIRED = struct.Struct("<Q")
_FIRED_OFFSET = 32


@dataclass(frozen=True, slots=True)
class Rule:
    """What is to happen to operations below a path.

    Attributes:
        operations: sum of WRITE, SYNC, NAME, SPACE.
        below: absolute path that theirs begin with.
        error: number of the error that they fail with; 0: none.
        skip: so many matching ones pass first. times: so many are hit.
        delay_us: so long each one waits.
        is_short: a write first takes half of its bytes.
    """

    operations: int
    below: Path
    error: int = 0
    skip: int = 0
    times: int = 1
    delay_us: int = 0
    is_short: bool = False

    def describe(self) -> str:
        """Return it as a few words."""
        kinds = {WRITE: "write", SYNC: "sync", NAME: "name", SPACE: "space"}
        what = "+".join(word for bit, word in kinds.items() if self.operations & bit)
        how = errno.errorcode[self.error] if self.error else f"{self.delay_us} us"
        return f"{what} {how} x{self.times} after {self.skip} in {self.below.name}"


class Disk:
    """A directory under the layer.

    Args:
        top: empty; will hold `disk/`, the directory, and `layer/`, what the torture needs.
        library: the layer, if it is built already.
        journaled: parts of it whose owners are databases, which rely on more than POSIX promises
            of names; see `names`.

    Attributes:
        path: the directory.
    """

    def __init__(
        self, top: Path, *, library: Path | None = None, journaled: Iterable[str] = ()
    ) -> None:
        self.path = top / "disk"
        self._space = top / "layer"
        self._journaled = [self.path / name for name in journaled]
        self._graves = self._space / "graves"
        self._journal = self._space / "journal"
        self._panel_path = self._space / "panel"
        for directory in (self.path, self._space, self._graves):
            directory.mkdir(parents=True)
        self._library = library or build_layer(self._space)
        self._journal.touch()
        self._panel_path.write_bytes(bytes(mmap.PAGESIZE))
        # A database may run as another user.
        for path in (self._graves, self._journal, self._panel_path):
            path.chmod(0o777)
        with self._panel_path.open("r+b") as file:
            self._panel = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._reboot()

    def environ(self) -> dict[str, str]:
        """Return what a process needs in its environment to be under the layer."""
        return {
            "LD_PRELOAD": str(self._library),
            "DFS_TORTURE_DISK": str(self.path),
            "DFS_TORTURE_JOURNAL": str(self._journal),
            "DFS_TORTURE_GRAVES": str(self._graves),
            "DFS_TORTURE_PANEL": str(self._panel_path),
            "DFS_TORTURE_BOOT_ID": str(self._space / "boot_id"),
        }

    def cut_power(self, rng: random.Random) -> Loss:
        """Lose what was not synced, or part of it. All processes must have been killed before."""
        loss = lose_unsynced(
            self.path,
            journal=self._journal,
            graves=self._graves,
            journaled=self._journaled,
            rng=rng,
        )
        self._reboot()
        return loss

    def settle(self) -> None:
        """Take all that is there for durable. No process may use it."""
        settle(journal=self._journal, graves=self._graves)

    def unsynced_bytes(self) -> int:
        """Return how large the journal of what might be lost has grown."""
        return self._journal.stat().st_size

    def order(self, rules: Iterable[Rule]) -> None:
        """Let these rules hold from now on, and no others."""
        for number in range(_RULES):
            offset = _RULE_OFFSET + number * _RULE.size
            struct.pack_into("<I", self._panel, offset, 0)
        for number, rule in enumerate(rules):
            offset = _RULE_OFFSET + number * _RULE.size
            below = os.fsencode(rule.below)
            packed = _RULE.pack(
                0,
                rule.error,
                rule.skip,
                rule.times,
                rule.delay_us,
                rule.is_short,
                0,
                below,
            )
            self._panel[offset : offset + _RULE.size] = packed
            struct.pack_into("<I", self._panel, offset, rule.operations)  # now it holds

    def fired(self) -> list[int]:
        """Return how often each of the rules was applied."""
        return [
            _FIRED.unpack_from(self._panel, _RULE_OFFSET + number * _RULE.size + _FIRED_OFFSET)[0]
            for number in range(_RULES)
        ]

    def shift_clock(self, seconds: float) -> None:
        """Let the processes see a time that is so far ahead of the real one, or behind it."""
        _SHIFT.pack_into(self._panel, 0, int(seconds * 1e9))

    def close(self) -> None:
        """Give back the panel."""
        self._panel.close()

    def _reboot(self) -> None:
        (self._space / "boot_id").write_text(f"{uuid.uuid4()}\n")


def build_layer(directory: Path) -> Path:
    """Compile the layer. Returns the library.

    Raises:
        FileNotFoundError: there is no C compiler.
        subprocess.CalledProcessError: it refuses; the error carries its output.
    """
    library = directory / "layer.so"
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    hidden = ["-fvisibility=hidden", "-ftls-model=initial-exec"]
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    subprocess.run(
        ["gcc", *options, *hidden, "-o", str(library), *sources, "-ldl"],
        check=True,
        capture_output=True,
        text=True,
    )
    return library
