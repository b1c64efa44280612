"""What whoever opens the services may be told of, to count it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dfs.core.tracing import NO_SPANS, Spans
from dfs.services.batch import OnCommit, ignore_report
from dfs.services.damage import OnDamage, OnRescue, ignore_damage, ignore_rescue
from dfs.services.ledger import OnAttempt, ignore_attempt
from dfs.storage.base import BlobStore


def ignore_handover() -> None:
    """Count nothing."""


def ignore_store(store: BlobStore) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called in the thread in which it happens; quick, and never raising.

    Attributes:
        on_commit: after each commit.
        on_damage: for each unit of a store that was found damaged or missing.
        on_attempt: for each debt that was paid, or tried in vain.
        on_rescue: for each read that the primary could not answer.
        on_handover: for each download that a proxy sends in the place of dfs.
        on_store: for each store, before it is used.
        spans: told of pieces of work.
    """

    on_commit: OnCommit = ignore_report
    on_damage: OnDamage = ignore_damage
    on_attempt: OnAttempt = ignore_attempt
    on_rescue: OnRescue = ignore_rescue
    on_handover: Callable[[], None] = ignore_handover
    on_store: Callable[[BlobStore], None] = ignore_store
    spans: Spans = NO_SPANS


NO_HOOKS = Hooks()
