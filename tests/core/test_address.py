"""Addresses that only this machine reaches."""

from __future__ import annotations

import pytest

from dfs.core.address import is_loopback


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
