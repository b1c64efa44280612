"""Wrong credentials, counted for each address, so that nobody can try many."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address

BURST = 20
PER_S = 1.0
ADDRESSES_MAX = 10_000
HOLDERS_MAX = 10_000
_IPV6_NETWORK_BITS = 64


class Attempts:
    """What this process knows of those who sent wrong credentials, and right ones.

    An address may be wrong `BURST` times, and after that `PER_S` times a second: until then its
    credentials are not even looked at. Except those that were right when they came from that
    address before: so nobody is locked out by his neighbours behind the same proxy. Both tables are
    bounded; who is in them longest is forgotten first.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid_until_s: OrderedDict[str, float] = OrderedDict()
        self._holders: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._lock = threading.Lock()

    def find_pause_s(self, address: str, credentials: bytes) -> int:
        """Return for how many seconds credentials from an address are not looked at; 0: they are.

        Args:
            credentials: a hash of them.
        """
        if not self._paid_until_s:
            return 0
        address = _network_of(address)
        until_s = self._paid_until_s.get(address, 0.0) - (BURST - 1) / PER_S
        pause_s = until_s - self._clock()
        if pause_s <= 0 or (address, credentials) in self._holders:
            return 0
        return math.ceil(pause_s)

    def note_right(self, address: str, credentials: bytes) -> None:
        """Remember that these came from there, and were right."""
        holder = (_network_of(address), credentials)
        if holder in self._holders:
            return
        with self._lock:
            self._holders[holder] = None
            if len(self._holders) > HOLDERS_MAX:
                self._holders.popitem(last=False)

    def note_wrong(self, address: str) -> None:
        """Count an attempt."""
        address = _network_of(address)
        with self._lock:
            before_s = self._paid_until_s.pop(address, 0.0)
            self._paid_until_s[address] = max(before_s, self._clock()) + 1 / PER_S
            if len(self._paid_until_s) > ADDRESSES_MAX:
                self._paid_until_s.popitem(last=False)


def _network_of(address: str) -> str:
    """Return what one client can hardly change of its address: of IPv6, the upper half."""
    if ":" not in address:
        return address
    try:
        number = int(ip_address(address.partition("%")[0]))
    except ValueError:
        return address
    return f"{number >> _IPV6_NETWORK_BITS:x}::"
