"""Addresses that only this machine reaches."""

from __future__ import annotations

import pytest

from dfs.core.address import is_loopback, network_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("/run/dfs.sock", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_all_else(host: str, expected: bool) -> None:
    """What is not known to be this machine is not."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:202", "192.0.2.2"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002::"),
        ("2001:db8:1:2::1", "20010db800010002::"),
        ("fe80::1%eth0", "fe80000000000000::"),
        ("::1", "0::"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_network_is_what_a_client_has_for_itself(address: str, expected: str) -> None:
    """On a socket for both, those of IPv4 are not one."""
    assert network_of(address) == expected
