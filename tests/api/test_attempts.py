"""Wrong credentials are slowed."""

from __future__ import annotations

import pytest

from dfs.api import attempts
from dfs.api.attempts import BURST, PER_S, Attempts

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that stands still until it is put forward."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def exhaust(limited: Attempts, address: str, key_id: str = "K") -> None:
    """Send as many different wrong credentials as are looked at without a pause."""
    for number in range(BURST):
        assert limited.find_pause_s(address, key_id, b"%d" % number) == 0
        limited.note_wrong(address, key_id, b"%d" % number)


def test_attempts_are_slowed_after_a_burst_and_looked_at_again_later() -> None:
    """One after each second, forever."""
    clock = Clock()
    limited = Attempts(clock=clock)
    exhaust(limited, HERE)
    for number in range(100, 110):
        assert limited.find_pause_s(HERE, "K", b"%d" % number) == 1
        clock.now_s += 1 / PER_S
        assert limited.find_pause_s(HERE, "K", b"%d" % number) == 0
        limited.note_wrong(HERE, "K", b"%d" % number)
    clock.now_s += BURST
    assert limited.find_pause_s(HERE, "K", b"x") == 0


def test_attempts_from_elsewhere_are_not_slowed() -> None:
    """Of IPv6, whoever has one address has all of its network."""
    limited = Attempts(clock=Clock())
    exhaust(limited, HERE)
    exhaust(limited, "2001:db8::1")
    assert limited.find_pause_s(THERE, "K", b"x") == 0
    assert limited.find_pause_s("2001:db8:0:1::1", "K", b"x") == 0
    assert limited.find_pause_s("2001:db8::ffff:1", "K", b"x") > 0
    assert limited.find_pause_s("no address: at all", "K", b"x") == 0


def test_attempts_at_one_key_do_not_slow_those_who_have_another() -> None:
    """Nor do those at keys that are not there: whoever knows no id locks nobody out."""
    limited = Attempts(clock=Clock())
    exhaust(limited, HERE, "")
    exhaust(limited, HERE, "K")
    assert limited.find_pause_s(HERE, "", b"x") > 0
    assert limited.find_pause_s(HERE, "K", b"x") > 0
    assert limited.find_pause_s(HERE, "other", b"x") == 0


def test_credentials_that_were_right_from_there_are_never_slowed() -> None:
    """But the same from elsewhere are."""
    limited = Attempts(clock=Clock())
    limited.note_right(HERE, "K", b"mine")
    exhaust(limited, HERE)
    exhaust(limited, THERE)
    assert limited.find_pause_s(HERE, "K", b"mine") == 0
    assert limited.find_pause_s(HERE, "K", b"other") > 0
    assert limited.find_pause_s(THERE, "K", b"mine") > 0


def test_same_wrong_credentials_again_count_once() -> None:
    """A client whose key was revoked tries on; that must not lock its neighbours out."""
    limited = Attempts(clock=Clock())
    for _ in range(10 * BURST):
        limited.note_wrong(HERE, "", b"old")
    assert limited.find_pause_s(HERE, "", b"new") == 0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses and credentials there are; the oldest goes first."""
    monkeypatch.setattr(attempts, "REMEMBERED_MAX", 50)
    limited = Attempts(clock=Clock())
    exhaust(limited, "first")
    exhaust(limited, "second")
    for number in range(49):
        limited.note_wrong(f"10.0.0.{number}", "K", b"x")
        limited.note_right(f"10.0.0.{number}", "K", b"y")
        limited.note_right(f"10.0.1.{number}", "K", b"y")
    assert limited.find_pause_s("first", "K", b"x") == 0
    assert limited.find_pause_s("second", "K", b"x") > 0
    assert len(limited._paid_until_s) == len(limited._right._items) == 50
    assert len(limited._wrong._items) == 50
