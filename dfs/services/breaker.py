"""The circuit breaker of a store: one that fails is left alone for a while, then probed.

It stands in the store's row of the index, so that all processes of the node, and those that come
after them, know of it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from dfs.core.errors import DfsError
from dfs.core.model import StoreState

OPEN_AFTER = 3
"""Failures one after the other from which on a store counts as out of service."""
PAUSE_MS = 1000
PAUSE_MS_MAX = 30_000


class Breaker(Enum):
    """What may be done with a store."""

    CLOSED = "closed"
    """It works, or has failed too seldom to say that it does not."""
    OPEN = "open"
    """It is out of service and not to be used now."""
    HALF_OPEN = "half-open"
    """It is out of service, and the next attempt to use it is due."""


def find_breaker(state: StoreState, now_ms: int) -> Breaker:
    """Return how the breaker of a store stands."""
    if state.failures < OPEN_AFTER:
        return Breaker.CLOSED
    # No pause is longer; a moment further ahead is of a clock that was set back since.
    is_waiting = now_ms < state.retry_at_ms <= now_ms + PAUSE_MS_MAX
    return Breaker.OPEN if is_waiting else Breaker.HALF_OPEN


def note_failure(state: StoreState, error: DfsError, *, now_ms: int, fraction: float) -> StoreState:
    """Return the state after an attempt that failed: twice the pause before, up to a limit.

    Args:
        fraction: random, 0 to 1; spreads the attempts of several nodes.
    """
    failures = state.failures + 1
    return replace(
        state,
        failures=failures,
        retry_at_ms=now_ms + find_pause_ms(failures, fraction),
        error=error.message,
        error_at_ms=now_ms,
    )


def note_success(state: StoreState) -> StoreState:
    """Return the state after an attempt that succeeded."""
    return replace(state, failures=0, retry_at_ms=0, error=None, error_at_ms=None)


def find_pause_ms(failures: int, fraction: float) -> int:
    """Return how long to wait after so many failures: exponential, with jitter, 50 to 100 %."""
    longest = min(PAUSE_MS_MAX, PAUSE_MS << min(failures - 1, 30))
    return int(longest * (0.5 + fraction / 2))
