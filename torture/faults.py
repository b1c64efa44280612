"""What befalls a node in a torture, in random order."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from torture.disk import FOR_EVER, NAME, SPACE, SYNC, WRITE, Disk, Rule
from torture.ledger import Ledger
from torture.node import REDIS, WEB, WORKER, ChaosNode
from torture.postgres import PostgresServer

ORPHANS_S_MAX = 10.0
SYNC_US = 80_000
SHIFTS_S = (1.0, 60.0, 3_000.0, 90_000.0)
KILLS = (
    "kill_web_worker",
    "kill_master",
    "kill_web",
    "kill_worker",
    "kill_redis",
    "kill_node",
    "kill_in_start",
    "kill_database",
)
CUTS = (
    "power_cut",
    "power_cut_in_start",
    "power_cut_in_sync",
    "power_cut_after_failing_sync",
)
DISK_FAULTS = ("failing_write", "failing_sync", "failing_name", "full_disk", "slow_disk")


class Faults:
    """Does bad things to a node, one at a time.

    Args:
        database: the server of the index; None if that is a file.
        kinds: names of what may happen; empty: all that can.
        parts: directories of the disk whose operations fail, by name.

    Attributes:
        counts: how often each happened. hits: operations that were made to fail or wait.
        needs_restart: the disk failed, so that the node may have stopped to write for good.
        is_shifted: the clock was moved since `begin`.
    """

    def __init__(
        self,
        node: ChaosNode,
        disk: Disk,
        database: PostgresServer | None,
        ledger: Ledger,
        *,
        kinds: Sequence[str],
        parts: Sequence[Path],
        rng: random.Random,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.hits = 0
        self.needs_restart = False
        self.is_shifted = False
        self._node = node
        self._disk = disk
        self._database = database
        self._ledger = ledger
        self._parts = parts
        self._rng = rng
        every: dict[str, Callable[[], str]] = {
            "kill_web_worker": self._kill_web_worker,
            "kill_master": self._kill_master,
            "kill_web": self._kill_web,
            "kill_worker": self._kill_worker,
            "kill_redis": self._kill_redis,
            "kill_node": self._kill_node,
            "kill_in_start": self._kill_in_start,
            "power_cut": self._cut_power,
            "power_cut_in_start": self._cut_power_in_start,
            "power_cut_in_sync": lambda: self._cut_power_while(delay_us=SYNC_US),
            "power_cut_after_failing_sync": lambda: self._cut_power_while(error=errno.EIO),
            "failing_write": lambda: self._fail(WRITE),
            "failing_sync": lambda: self._fail(SYNC),
            "failing_name": lambda: self._fail(NAME),
            "full_disk": self._fill,
            "slow_disk": self._slow_down,
            "clock_jump": self._shift_clock,
        }
        if database is not None:
            every["kill_database"] = self._kill_database
        self._kinds = {name: do for name, do in every.items() if not kinds or name in kinds}
        self._deck: list[str] = []

    def begin(self) -> None:
        """Begin a round."""
        self.is_shifted = False

    def strike(self) -> None:
        """Do the next thing: each kind once, in random order, then again."""
        if not self._deck:
            self._deck = sorted(self._kinds)
            self._rng.shuffle(self._deck)
        kind = self._deck.pop()
        self._ledger.write("fault", kind=kind)
        told = self._kinds[kind]()
        self.counts[kind] += 1
        self._ledger.write("fault over", kind=kind, told=told)

    def end(self) -> None:
        """Let the disk and the clock be as they should, and everything run."""
        self._obey(())
        self._disk.shift_clock(0)
        if self.needs_restart:
            self.needs_restart = False
            self._node.kill(WEB)
            self._node.kill(WORKER)
        if self._database is not None and self._database.process.poll() is not None:
            self._database.start()
        self._node.look_after()

    # Processes

    def _kill_web_worker(self) -> str:
        pids = self._node.web_workers()
        if pids:
            with suppress(ProcessLookupError):
                os.kill(self._rng.choice(pids), signal.SIGKILL)
        return f"of {len(pids)}"

    def _kill_master(self) -> str:
        """Kill the master alone; its workers find out, and end what they are doing."""
        orphans = self._node.web_workers()
        os.kill(self._node.pid(WEB), signal.SIGKILL)
        deadline_s = time.monotonic() + ORPHANS_S_MAX
        while any(map(_is_alive, orphans)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        self._node.kill(WEB)
        self._node.start(WEB)
        return f"{len(orphans)} workers without a master"

    def _kill_web(self) -> str:
        self._node.kill(WEB)
        self._node.start(WEB)
        return ""

    def _kill_worker(self) -> str:
        self._node.kill(WORKER)
        self._node.start(WORKER)
        return ""

    def _kill_redis(self) -> str:
        self._node.kill(REDIS)
        time.sleep(self._rng.uniform(0, 0.5))
        self._node.start(REDIS)
        return ""

    def _kill_node(self) -> str:
        self._node.kill_at_once()
        self._node.start_all()
        return ""

    def _kill_in_start(self) -> str:
        """Kill it, start it, and kill it again while it recovers."""
        self._node.kill_at_once()
        self._node.start_all()
        pause_s = self._rng.uniform(0.1, 2.0)
        time.sleep(pause_s)
        self._node.kill_at_once()
        self._node.start_all()
        self.counts["kill_node"] += 1
        return f"after {pause_s:.2f} s"

    def _kill_database(self) -> str:
        if self._database is not None:
            self._database.kill()
            self._database.start()
        return ""

    # Power

    def _cut_power(self) -> str:
        self._node.kill_at_once()
        if self._database is not None:
            self._database.kill()
        self._obey(())
        loss = self._disk.cut_power(self._rng)
        self.needs_restart = False
        if self._database is not None:
            self._database.start()
        self._node.start_all()
        return str(loss)

    def _cut_power_in_start(self) -> str:
        """Cut the power twice, the second time while the node recovers from the first."""
        first = self._cut_power()
        pause_s = self._rng.uniform(0.1, 2.0)
        time.sleep(pause_s)
        self.counts["power_cut"] += 1
        return f"{first}, after {pause_s:.2f} s {self._cut_power()}"

    def _cut_power_while(self, *, delay_us: int = 0, error: int = 0) -> str:
        """Cut the power while syncs of the log take long, or fail: much is written, not synced."""
        below = self._disk.path / "wal"
        self._obey((Rule(SYNC, below, times=FOR_EVER, delay_us=delay_us, error=error),))
        time.sleep(self._rng.uniform(0.1, 0.4))
        return self._cut_power()

    # The disk and the clock

    def _obey(self, rules: Sequence[Rule]) -> None:
        """Have the disk obey these rules and no others."""
        self.hits += sum(self._disk.fired())
        self._disk.order(rules)

    def _fail(self, operation: int) -> str:
        """Let some operations of one kind fail in one part of the disk, soon."""
        rule = Rule(
            operation,
            self._rng.choice(self._parts),
            error=self._rng.choice((errno.EIO, errno.ENOSPC)),
            skip=self._rng.randrange(20),
            times=self._rng.choice((1, 3, 30)),
            is_short=self._rng.random() < 0.5,
        )
        self._obey((rule,))
        self.needs_restart = True
        return rule.describe()

    def _fill(self) -> str:
        """Let a part of the disk, or all of it, be full for a while."""
        below = self._rng.choice((*self._parts, self._disk.path))
        full = Rule(WRITE | NAME, below, error=errno.ENOSPC, times=FOR_EVER, is_short=True)
        space = Rule(SPACE, below, error=errno.ENOSPC, times=FOR_EVER)
        self._obey((full, space))
        time.sleep(self._rng.uniform(0.3, 1.0))
        self._obey(())
        self.needs_restart = True
        return below.name

    def _slow_down(self) -> str:
        rule = Rule(
            WRITE | SYNC,
            self._rng.choice((*self._parts, self._disk.path)),
            times=FOR_EVER,
            delay_us=self._rng.randrange(5_000, 60_000),
        )
        self._obey((rule,))
        time.sleep(self._rng.uniform(0.5, 1.5))
        self._obey(())
        return rule.describe()

    def _shift_clock(self) -> str:
        seconds = self._rng.choice((-1, 1)) * self._rng.choice(SHIFTS_S)
        self.is_shifted = True
        self._disk.shift_clock(seconds)
        return f"{seconds:+.0f} s"


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
