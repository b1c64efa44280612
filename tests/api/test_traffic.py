"""How much each caller may ask for at a time: uploads in flight, and requests."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfs.api.counters import PROBES, SLOTS, SharedCounters
from dfs.api.rates import Rates
from dfs.api.traffic import Slots
from dfs.core.errors import TooManyRequestsError
from dfs.core.parsers import Rate
from tests.api.conftest import MakeApp


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def made(rates: Rates, caller: str, count: int = 1000) -> int:
    """Return how many of so many requests may be made."""
    allowed = 0
    for _ in range(count):
        try:
            rates.count(caller)
        except TooManyRequestsError:
            continue
        allowed += 1
    return allowed


def test_slots_are_counted_by_caller() -> None:
    """One caller with too many uploads does not keep others from theirs; an end makes room."""
    slots = Slots(2)
    slots.take("a")
    slots.take("a")
    slots.take("b")
    with pytest.raises(TooManyRequestsError):
        slots.take("a")
    slots.give_back("a")
    slots.take("a")
    for name in ("a", "a", "b"):
        slots.give_back(name)
    assert slots._taken == {}


def test_slots_without_a_limit_are_endless() -> None:
    """0 means none."""
    slots = Slots(0)
    for _ in range(1000):
        slots.take("a")


@pytest.mark.parametrize("count", [1, 5, 64, 100, 1000])
def test_rate_holds_over_processes_exactly(tmp_path: Path, clock: Clock, count: int) -> None:
    """Two processes together let through what a caller may have, but for a share of each."""
    first, second = (
        Rates(Rate(count, 60), SharedCounters(tmp_path / "table", clock=clock), clock=clock)
        for _ in range(2)
    )
    allowed = made(first, "a", count // 2) + made(second, "a", 2 * count) + made(first, "a", count)
    assert allowed == count
    assert made(second, "b", 1) == 1
    clock.now_s += 59.9
    assert made(second, "a") == made(first, "a") == 0
    clock.now_s += 0.2
    assert made(first, "a", 2 * count) == count


def test_rate_tells_when_to_come_again(tmp_path: Path, clock: Clock) -> None:
    """By the end of the period that is running."""
    rates = Rates(Rate(1, 60), SharedCounters(tmp_path / "table", clock=clock), clock=clock)
    rates.count("a")
    clock.now_s += 20
    with pytest.raises(TooManyRequestsError) as caught:
        rates.count("a")
    assert caught.value.retry_after_s == 40


def test_rate_survives_a_clock_that_is_turned_back(tmp_path: Path, clock: Clock) -> None:
    """Nobody is shut out until a time that will not come for long."""
    rates = Rates(Rate(1, 60), SharedCounters(tmp_path / "table", clock=clock), clock=clock)
    assert made(rates, "a", 2) == 1
    clock.now_s -= 500
    assert made(rates, "a", 2) == 1


def test_counters_full_forget_the_one_that_ends_first(tmp_path: Path, clock: Clock) -> None:
    """However many callers there are, the table stays as large, and the newest are counted."""
    counters = SharedCounters(tmp_path / "table", clock=clock)
    for number in range(3 * SLOTS):
        clock.now_s += 0.001
        assert counters.incr(f"caller {number}", 3600) == 1
    assert counters.incr(f"caller {3 * SLOTS - 1}", 3600) == 2
    assert (tmp_path / "table").stat().st_size == SLOTS * struct.calcsize("<QddQ")
    assert PROBES < SLOTS


def test_counters_are_one_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost that is counted at once through several openings of the table."""
    find = SharedCounters._find

    def find_slowly(table: SharedCounters, key: str, now_s: float) -> Any:
        found = find(table, key, now_s)
        time.sleep(0.0001)  # others count meanwhile, unless they are kept from it
        return found

    monkeypatch.setattr(SharedCounters, "_find", find_slowly)
    tables = [SharedCounters(tmp_path / "table") for _ in range(4)]

    def count(table: SharedCounters) -> None:
        for _ in range(50):
            table.incr("key", 3600)

    with ThreadPoolExecutor() as threads:
        list(threads.map(count, tables))
    assert [table.get("key") for table in tables] == [200] * 4


@pytest.mark.parametrize("shared", [True, False])
def test_requests_over_the_rate_are_429(make_app: MakeApp, tmp_path: Path, shared: bool) -> None:
    """With the time to wait, on every route that is not open to all; Redis has no part in it."""
    if not shared:
        (tmp_path / "run" / "rates").mkdir(parents=True)  # where the table cannot be made
    client = make_app(DFS_RATE_PER_CALLER="3/hour", REDIS_URL="redis://127.0.0.1:1").test_client()
    answers: list[Any] = [client.get("/files") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].json["code"] == "too_many_requests"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 3600
    assert client.post("/upload?name=a", data=b"x").status_code == 429
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("text", ["5", "0/minute", "5/day", "-5/minute", "x/minute", "5/minute/2"])
def test_rate_malformed_is_refused(make_config: Callable[..., Any], text: str) -> None:
    """And said so at the start."""
    with pytest.raises(Exception, match="DFS_RATE_PER_CALLER"):
        make_config(DFS_RATE_PER_CALLER=text)


def test_table_of_counters_has_its_room_on_the_disk(tmp_path: Path) -> None:
    """A page that is only found to have none when it is written kills the process."""
    SharedCounters(tmp_path / "table")
    found = (tmp_path / "table").stat()
    assert found.st_blocks * 512 >= found.st_size > 0
