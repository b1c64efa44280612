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

    From one address `BURST` different wrong ones may come for a key, and after that `PER_S` a
    second: until then what comes is not even looked at. Those for no key there is are counted
    together, so whoever knows the id of no key locks nobody out. What was right when it came from
    that address before is always looked at: so nobody is locked out by his neighbours behind the
    same proxy. The same wrong ones again are no attempt at anything, but a client that does not
    know that its key was revoked. What is remembered is bounded; the oldest is forgotten first.

    All methods take:
        address: of the client.
        key_id: of the key that the credentials are for; empty if there is none of that id.
        credentials: a hash of them.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid_until_s: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._right = _Recent()
        self._wrong = _Recent()
        self._lock = threading.Lock()

    def find_pause_s(self, address: str, key_id: str, credentials: bytes) -> int:
        """Return for how many seconds these are not looked at; 0: they are."""
        if not self._paid_until_s:
            return 0
        place = (network_of(address), key_id)
        until_s = self._paid_until_s.get(place, 0.0) - (BURST - 1) / PER_S
        pause_s = until_s - self._clock()
        if pause_s <= 0 or (*place, credentials) in self._right:
            return 0
        return math.ceil(pause_s)

    def note_right(self, address: str, key_id: str, credentials: bytes) -> None:
        """Remember that these came from there, and were right."""
        self._right.add((network_of(address), key_id, credentials))

    def note_wrong(self, address: str, key_id: str, credentials: bytes) -> None:
        """Count an attempt."""
        place = (network_of(address), key_id)
        if not self._wrong.add((*place, credentials)):
            return
        with self._lock:
            before_s = self._paid_until_s.pop(place, 0.0)
            self._paid_until_s[place] = max(before_s, self._clock()) + 1 / PER_S
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
