"""When a store that fails is left alone, and for how long."""

from __future__ import annotations

import pytest

from dfs.core.errors import StoreUnavailableError
from dfs.core.model import StoreState
from dfs.services.breaker import OPEN_AFTER, PAUSE_MS_MAX, Breaker, find_breaker, note_failure

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("elapsed_ms", "expected"),
    [
        (0, Breaker.OPEN),
        (PAUSE_MS_MAX - 1, Breaker.OPEN),
        (PAUSE_MS_MAX, Breaker.HALF_OPEN),
        (-1, Breaker.HALF_OPEN),
        (-90_000_000, Breaker.HALF_OPEN),
    ],
)
def test_breaker_is_open_for_its_pause_and_no_longer(elapsed_ms: int, expected: Breaker) -> None:
    """The pause ends in time, and also when the clock was set back after the failure."""
    state = StoreState("replica1", bytes(16))
    for _ in range(OPEN_AFTER + 10):
        state = note_failure(state, StoreUnavailableError("gone"), now_ms=NOW_MS, fraction=1.0)
    assert find_breaker(state, NOW_MS + elapsed_ms) is expected
