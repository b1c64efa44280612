"""Wrong credentials, counted for each address, so that nobody can try many."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from dfs.core.address import network_of

BURST = 20
PER_S = 1.0
REMEMBERED_MAX = 10_000


class Attempts:
    """What this process knows of those who sent wrong credentials, and right ones.

    An address may send `BURST` different wrong ones, and after that `PER_S` a second: until then
    what it sends is not even looked at. Except what was right when it came from that address
    before: so nobody is locked out by his neighbours behind the same proxy. The same wrong ones
    again are no attempt at anything, but a client that does not know that its key was revoked. What
    is remembered is bounded; the oldest is forgotten first.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid_until_s: OrderedDict[str, float] = OrderedDict()
        self._right = _Recent()
        self._wrong = _Recent()
        self._lock = threading.Lock()

    def find_pause_s(self, address: str, credentials: Hashable) -> int:
        """Return for how many seconds credentials from an address are not looked at; 0: they are.

        Args:
            credentials: something that stands for them, and from which they do not follow.
        """
        if not self._paid_until_s:
            return 0
        network = network_of(address)
        until_s = self._paid_until_s.get(network, 0.0) - (BURST - 1) / PER_S
        pause_s = until_s - self._clock()
        if pause_s <= 0 or (network, credentials) in self._right:
            return 0
        return math.ceil(pause_s)

    def note_right(self, address: str, credentials: Hashable) -> None:
        """Remember that these came from there, and were right."""
        self._right.add((network_of(address), credentials))

    def note_wrong(self, address: str, credentials: Hashable) -> None:
        """Count an attempt."""
        network = network_of(address)
        if not self._wrong.add((network, credentials)):
            return
        with self._lock:
            before_s = self._paid_until_s.pop(network, 0.0)
            self._paid_until_s[network] = max(before_s, self._clock()) + 1 / PER_S
            if len(self._paid_until_s) > REMEMBERED_MAX:
                self._paid_until_s.popitem(last=False)


class _Recent:
    """The newest `REMEMBERED_MAX` of some items."""

    def __init__(self) -> None:
        self._items: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, item: Hashable) -> bool:
        return item in self._items

    def add(self, item: Hashable) -> bool:
        """Remember an item. Returns whether it is new."""
        if item in self._items:
            return False
        with self._lock:
            self._items[item] = None
            if len(self._items) > REMEMBERED_MAX:
                self._items.popitem(last=False)
        return True
