"""How many requests each caller may make of all processes of the node."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from limits import RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from dfs.core.errors import TooManyRequestsError
from dfs.core.parsers import Rate

SHARES = 64
CALLERS_MAX = 10_000


class Rates:
    """The requests of each caller in this process.

    A process takes a 64th of what a caller may have at a time from what is counted for all
    processes, so that most requests are counted in its own memory. What it has taken and not used
    when the period ends is lost to the caller: a 64th for each process, at most.

    Args:
        storage: shared by all processes.
    """

    def __init__(
        self, rate: Rate, storage: Storage, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._item = RateLimitItemPerSecond(rate.count, rate.period_s)
        self._limiter = FixedWindowRateLimiter(storage)
        self._share = max(1, rate.count // SHARES)
        self._clock = clock
        self._left: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, caller: str) -> None:
        """Count a request. Raises TooManyRequestsError if it is one too many."""
        now_s = self._clock()
        with self._lock:
            left, end_s = self._left.pop(caller, (0, 0.0))
            if now_s >= end_s or now_s < end_s - self._item.get_expiry():
                left = 0
            elif left < 0:  # nothing is left for anybody
                self._left[caller] = (left, end_s)
                self._refuse(end_s - now_s)
            if not left:
                left, end_s = self._take(caller, now_s)
            self._left[caller] = (left - 1, end_s)
            if len(self._left) > CALLERS_MAX:
                self._left.popitem(last=False)
            if left < 0:
                self._refuse(end_s - now_s)

    def _take(self, caller: str, now_s: float) -> tuple[int, float]:
        """Return how many requests may be made until when; -1 for none."""
        left = self._limiter.get_window_stats(self._item, caller).remaining
        share = min(self._share, left)
        granted = share > 0 and self._limiter.hit(self._item, caller, cost=share)
        end_s = self._limiter.get_window_stats(self._item, caller).reset_time
        return (share if granted else -1), max(end_s, now_s)

    def _refuse(self, pause_s: float) -> None:
        raise TooManyRequestsError(
            f"There may be {self._item.amount} requests in {self._item.get_expiry()} s.",
            retry_after_s=max(1, math.ceil(pause_s)),
        )
