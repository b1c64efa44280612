"""What happens to a node in a drill, in random order."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.project.chaos_stores import Fault, NotNowError, Undo, Victim, flip_bits, holds_whole
from torture.node import REDIS, WEB, WORKER, ChaosNode

LOSSES = ("wiped", "replaced_by_empty", "bucket_emptied")
"""Faults that take all copies of a store at once."""


class Chaos:
    """Does bad things to a node and its stores, one at a time, in random order.

    Args:
        primary: only its blob files are ever spoiled, and only those that all replicas have whole.
        wanted: returns the SHA-256 of all files that must be there: nobody mends other blobs.
    """

    def __init__(
        self,
        node: ChaosNode,
        primary: Victim,
        replicas: Sequence[Victim],
        *,
        wanted: Callable[[], set[str]],
        rng: random.Random,
    ) -> None:
        self.counts: dict[str, int] = {}
        self._node = node
        self._primary = primary
        self._replicas = replicas
        self._wanted = wanted
        self._rng = rng
        self._kinds = self._list_kinds()
        self._deck: list[str] = []
        self._pending: dict[str, tuple[float, Undo]] = {}
        self._hurt: set[str] = set()  # blobs of the primary that may not be whole again yet

    def _list_kinds(self) -> dict[str, Fault]:
        """Return name -> fault, for all that can happen here."""
        kinds: dict[str, Fault] = {
            "kill_worker": self._kill_worker,
            "kill_web_worker": self._kill_web_worker,
            "kill_node": self._kill_node,
            "restart_queue_empty": self._restart_queue,
            "flush_queue": self._flush_queue,
            "primary_flip_blob": lambda: self._hurt_primary(spoil=True),
            "primary_delete_blob": lambda: self._hurt_primary(spoil=False),
        }
        for store in self._replicas:
            for kind in ("blobs", "segments"):
                kinds[f"{store.name}_flip_{kind}"] = self._damage(store, kind, spoil=True)
                kinds[f"{store.name}_delete_{kind}"] = self._damage(store, kind, spoil=False)
            for name, fault in store.faults().items():
                kinds[f"{store.name}_{name}"] = self._guard(fault) if name in LOSSES else fault
        return kinds

    def is_through(self) -> bool:
        """Tell whether each fault has happened at least once."""
        return set(self.counts) == set(self._kinds)

    def missing(self) -> list[str]:
        """Return which faults have not happened."""
        return sorted(set(self._kinds) - set(self.counts))

    def strike(self) -> None:
        """Do the next thing that can be done, after ending what has lasted long enough."""
        self._end([name for name, (due_s, _) in self._pending.items() if due_s < time.monotonic()])
        self._node.look_after()
        if not self._deck:
            self._deck = sorted(self._kinds)
            self._rng.shuffle(self._deck)
        for name in list(self._deck):
            with contextlib.suppress(NotNowError, OSError):
                undo = self._kinds[name]()
                self._deck.remove(name)
                self.counts[name] = self.counts.get(name, 0) + 1
                if undo is not None:
                    self._pending[name] = (time.monotonic() + self._rng.uniform(1, 5), undo)
                sys.stderr.write(f"  {name}\n")
                return

    def end_all(self) -> None:
        """Let everything be as it should, the latest first."""
        self._end(list(reversed(self._pending)))
        self._node.start_all()

    def _end(self, names: Sequence[str]) -> None:
        for name in names:
            self._pending.pop(name)[1]()

    # The processes

    def _kill_worker(self) -> None:
        self._node.kill(WORKER)
        self._node.start(WORKER)

    def _kill_web_worker(self) -> None:
        pids = self._node.web_workers()
        if not pids:
            raise NotNowError
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._rng.choice(pids), signal.SIGKILL)

    def _kill_node(self) -> None:
        self._node.kill(WEB)
        self._node.start(WEB)

    def _restart_queue(self) -> Undo:
        self._node.kill(REDIS)
        self._node.start(REDIS)
        return lambda: None

    def _flush_queue(self) -> None:
        if not self._node.flush_redis():
            raise NotNowError

    # The stores

    def _damage(self, store: Victim, kind: str, *, spoil: bool) -> Fault:
        """Return a fault: a unit of a replica is spoiled or removed. The primary has it whole."""

        def damage() -> None:
            self._forget_mended()
            units = [unit for unit in store.units(kind) if unit not in self._hurt]
            self._harm(store, units, spoil=spoil)

        return damage

    def _hurt_primary(self, *, spoil: bool) -> None:
        """Spoil or remove a blob file of the primary that all replicas have whole."""
        self._forget_mended()
        if self._hurt:
            raise NotNowError
        wanted = self._wanted()
        units = [unit for unit in self._primary.units("blobs") if Path(unit).name in wanted]
        self._rng.shuffle(units)
        whole = [
            unit
            for unit in units[:20]
            if all(holds_whole(store, unit) for store in self._replicas)
            and holds_whole(self._primary, unit)
        ]
        self._hurt.update(self._harm(self._primary, whole[:1], spoil=spoil))

    def _harm(self, store: Victim, units: Sequence[str], *, spoil: bool) -> list[str]:
        if not units:
            raise NotNowError
        unit = self._rng.choice(units)
        if not spoil:
            store.remove(unit)
            return [unit]
        content = store.read(unit)
        if not content:
            raise NotNowError
        store.spoil(unit, flip_bits(content, self._rng))
        return [unit]

    def _forget_mended(self) -> None:
        wanted = self._wanted()
        self._hurt = {
            unit
            for unit in self._hurt
            if Path(unit).name in wanted and not holds_whole(self._primary, unit)
        }

    def _guard(self, fault: Fault) -> Fault:
        """Return a fault that waits until the primary is whole: it may leave no other copy."""

        def guarded() -> Undo | None:
            self._forget_mended()
            if self._hurt:
                raise NotNowError
            return fault()

        return guarded
