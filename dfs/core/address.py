"""Addresses that only this machine reaches."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

_IPV6_NETWORK_BITS = 64


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether this is an address of the machine itself, or a name of such a one."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def own_address(host: str) -> str:
    """Return the address at which this machine finds what listens on `host`."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    return anywhere.get(host, host)


def network_of(address: str) -> str:
    """Return what one client can hardly change of its address: of IPv6, the upper half."""
    if ":" not in address:
        return address
    try:
        number = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if number.ipv4_mapped is not None:  # to a socket for both, each client of IPv4 is one of IPv6
        return str(number.ipv4_mapped)
    return f"{int(number) >> _IPV6_NETWORK_BITS:x}::"
