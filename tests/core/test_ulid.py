"""Ids: held against an independent implementation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ulid import ULID

from dfs.api.requests import is_file_id
from dfs.core.clock import now_ms
from dfs.core.ulid import UlidFactory


def test_ulid_is_read_by_another_implementation_as_of_now() -> None:
    """The text is a ULID that carries the present time, and passes for the id of a file."""
    ulids = UlidFactory()
    for _ in range(1000):
        text = ulids.make()
        assert is_file_id(text)
        assert str(ULID.from_str(text)) == text
        assert abs(ULID.from_str(text).milliseconds - now_ms()) < 60_000


def test_ulids_made_by_many_threads_differ() -> None:
    """No random bytes are used twice, whoever refills the stock."""
    ulids = UlidFactory()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ulids.make()[10:], range(20_000)))
    assert len(set(made)) == len(made)


def test_ulids_of_different_factories_differ() -> None:
    """Two processes, each with a factory of its own, do not make the same ids."""
    first, second = UlidFactory(), UlidFactory()
    assert not {first.make()[10:] for _ in range(300)} & {second.make()[10:] for _ in range(300)}
