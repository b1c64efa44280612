"""What whoever opens the services may be told of, to count it."""

from __future__ import annotations

from dataclasses import dataclass

from dfs.services.batch import OnCommit, ignore_report
from dfs.services.damage import OnDamage, OnRescue, ignore_damage, ignore_rescue


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called in the thread in which it happens; quick, and never raising.

    Attributes:
        on_commit: after each commit.
        on_damage: for each unit of a store that was found damaged or missing.
        on_rescue: for each read that the primary could not answer.
    """

    on_commit: OnCommit = ignore_report
    on_damage: OnDamage = ignore_damage
    on_rescue: OnRescue = ignore_rescue


NO_HOOKS = Hooks()
