"""One thread runs at a time, and none waits for one that does not go on."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from dfs.server.crew import ServingCrew
from dfs.services.crew import Sleeper
from tests.hostile.target import Answer, running_target
from tests.project.chaos_clients import wait_until

WAIT_S = 30.0


class Hand:
    """A thread of a crew that does what it is told, one thing after the other."""

    def __init__(self, crew: ServingCrew) -> None:
        self.sleeper: Sleeper
        self._tasks: list[Callable[[], object] | None] = []
        self._told = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._crew = crew
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.do(crew.join)
        self.do(lambda: setattr(self, "sleeper", Sleeper()))

    def tell(self, task: Callable[[], object] | None) -> None:
        """Have something done, without waiting for it; None: end."""
        self._tasks.append(task)
        self._told.release()

    def do(self, task: Callable[[], object]) -> None:
        """Have something done."""
        self.tell(task)
        assert self.is_done()

    def is_done(self, timeout_s: float = WAIT_S) -> bool:
        """Wait until the oldest thing that was told is done."""
        return self._done.acquire(timeout=timeout_s)

    def is_waiting(self) -> bool:
        """Wait until the thread queues up for its turn."""
        return self._is_among(self._crew._queue)

    def is_following(self) -> bool:
        """Wait until the thread waits to be the one that looks for arrivals."""
        return self._is_among(self._crew._followers)

    def has_ended(self) -> bool:
        """Wait until the thread has ended."""
        self._thread.join(WAIT_S)
        return not self._thread.is_alive()

    def _is_among(self, sleepers: Iterable[Sleeper]) -> bool:
        def is_there() -> bool:
            return any(sleeper.ident == self.sleeper.ident for sleeper in list(sleepers))

        return wait_until(is_there, timeout_s=WAIT_S, pause_s=0)

    def _work(self) -> None:
        self._told.acquire()
        while (task := self._tasks.pop(0)) is not None:
            task()
            self._done.release()
            self._told.acquire()


@pytest.fixture
def arrivals() -> list[str]:
    """What waits for a thread."""
    return []


@pytest.fixture
def calls() -> list[str]:
    """How often a thread was called for the chore."""
    return []


@pytest.fixture
def crew(arrivals: list[str], calls: list[str]) -> ServingCrew:
    """A crew."""
    return ServingCrew(
        has_arrivals=lambda: bool(arrivals), call=lambda: calls.append("call"), gather_s=WAIT_S
    )


class OneChore:
    """Something to do, once."""

    def __init__(self) -> None:
        self.doers: list[int] = []
        self.fault: Exception | None = None

    def is_due(self) -> bool:
        """Tell whether it was done."""
        return not self.doers

    def is_pressing(self) -> bool:
        """Tell that it can wait."""
        return False

    def do(self) -> None:
        """Do it."""
        self.doers.append(threading.get_ident())
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def hands(crew: ServingCrew) -> Iterator[list[Hand]]:
    """Three of its threads."""
    hands = [Hand(crew) for _ in range(3)]
    yield hands
    for hand in hands:
        hand.tell(crew.leave)
        hand.tell(None)
    assert all(hand.has_ended() for hand in hands)


def send_out(crew: ServingCrew, first: Hand, second: Hand) -> None:
    """Have one thread serve what has arrived, and another follow it."""
    first.do(crew.look_out)
    first.do(crew.begin)
    second.tell(crew.look_out)
    assert second.is_following()


def test_threads_run_one_at_a_time(crew: ServingCrew) -> None:
    """However they step aside and come back, never two have their turn."""
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        crew.join()
        for _ in range(500):
            crew.come_back()
            running.append(0)
            most.append(len(running))
            running.pop()
            crew.step_aside()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert len(most) == 4000
    assert max(most) == 1


def test_thread_in_a_hurry_comes_first(crew: ServingCrew, hands: list[Hand]) -> None:
    """Whoever comes back at once does so before all that wait already."""
    first, second, third = hands
    first.do(crew.come_back)
    second.tell(crew.come_back)
    assert second.is_waiting()
    third.tell(lambda: crew.come_back(at_once=True))
    assert third.is_waiting()
    first.do(crew.step_aside)
    assert third.is_done()
    assert not second.is_done(0)
    third.do(crew.step_aside)
    assert second.is_done()


def test_thread_aside_lets_others_run_and_comes_back(crew: ServingCrew, hands: list[Hand]) -> None:
    """While a thread waits inside the block others run; behind it the thread has its turn again."""
    first, second, _ = hands
    end = threading.Event()

    def wait() -> None:
        with crew.aside():
            end.wait(WAIT_S)

    first.do(crew.come_back)
    first.tell(wait)
    second.do(crew.come_back)
    end.set()
    assert first.is_waiting()
    second.do(crew.step_aside)
    assert first.is_done()


def test_woken_threads_run_one_after_the_other(crew: ServingCrew, hands: list[Hand]) -> None:
    """Threads that are woken together have their turn when they awake; a stranger just awakes."""
    first, second, third = hands
    stranger = Sleeper()
    first.do(crew.come_back)
    second.tell(second.sleeper.sleep)
    third.tell(third.sleeper.sleep)
    first.do(lambda: crew.wake([second.sleeper, stranger, third.sleeper]))
    stranger.sleep()
    assert not second.is_done(0)
    first.do(crew.step_aside)
    assert second.is_done()
    assert not third.is_done(0)
    second.do(crew.step_aside)
    assert third.is_done()


def test_thread_that_leaves_is_no_member_any_more(crew: ServingCrew, hands: list[Hand]) -> None:
    """It gives up its turn, and runs whenever it likes afterwards."""
    first, second, _ = hands
    first.do(crew.come_back)
    first.do(crew.leave)
    second.do(crew.come_back)
    first.do(crew.come_back)


def test_thread_aside_has_another_look_for_arrivals(
    crew: ServingCrew, hands: list[Hand], arrivals: list[str]
) -> None:
    """Which has its turn if there are any, and else does not keep others from theirs."""
    first, second, third = hands
    send_out(crew, first, second)
    assert not second.is_done(0)
    arrivals.append("request")
    first.do(crew.step_aside)
    assert second.is_done()
    second.do(crew.begin)
    third.tell(crew.come_back)
    assert third.is_waiting()
    arrivals.clear()
    second.do(crew.rest)
    assert third.is_done()


def test_commit_waits_for_what_has_arrived(
    crew: ServingCrew, hands: list[Hand], arrivals: list[str]
) -> None:
    """A leader gathers until the thread that looks for arrivals finds none, or none looks."""
    first, second, third = hands
    send_out(crew, first, second)
    arrivals.append("request")
    first.do(crew.step_aside)
    assert second.is_done()
    first.tell(crew.gathering.wait)
    assert not first.is_done(0.05)
    second.do(crew.rest)
    assert first.is_done()
    second.do(crew.begin)
    third.tell(crew.gathering.wait)
    assert not third.is_done(0.05)
    second.do(crew.step_aside)  # and no thread is left to look
    assert third.is_done()


def test_lone_commit_does_not_wait(crew: ServingCrew, hands: list[Hand]) -> None:
    """If nothing has arrived a leader need not wait for the thread that looks."""
    first, second, _ = hands
    send_out(crew, first, second)
    first.do(crew.step_aside)
    first.do(crew.gathering.wait)
    assert second.is_done()


def test_requests_are_short_of_threads_when_none_looks(
    crew: ServingCrew, hands: list[Hand], arrivals: list[str]
) -> None:
    """A thread that could look for what has arrived will do so."""
    first, second, _ = hands
    first.do(crew.look_out)
    first.do(crew.begin)
    arrivals.append("request")
    assert crew.is_short()
    second.tell(crew.look_out)
    assert second.is_following()
    assert not crew.is_short()


def test_thread_that_runs_for_too_long_lets_another_run(
    crew: ServingCrew, hands: list[Hand], arrivals: list[str]
) -> None:
    """The watch takes the turn, and the look-out, from whoever had it at its last look."""
    first, second, third = hands
    send_out(crew, first, second)
    third.tell(crew.come_back)
    assert third.is_waiting()
    crew.look()
    assert not third.is_done(0)
    crew.look()
    assert third.is_done()
    third.do(crew.step_aside)
    assert second.is_done()
    first.do(crew.step_aside)  # which has none any more
    first.tell(crew.come_back)
    assert first.is_waiting()


def test_thread_that_got_its_turn_since_keeps_it(crew: ServingCrew, hands: list[Hand]) -> None:
    """A look between two turns takes nothing away; nor does one when nobody waits."""
    first, second, third = hands
    first.do(crew.come_back)
    for _ in range(3):
        assert crew.look()
    second.tell(crew.come_back)
    assert second.is_waiting()
    first.do(crew.step_aside)
    assert second.is_done()
    third.tell(crew.come_back)
    assert third.is_waiting()
    crew.look()
    assert not third.is_done(0)
    second.do(crew.step_aside)
    assert third.is_done()
    third.do(crew.step_aside)
    assert not crew.look()


def test_chore_is_done_at_the_turn_of_a_thread(crew: ServingCrew, hands: list[Hand]) -> None:
    """Whoever does it waits for his turn first, as for a request, and for nobody when he leads."""
    first, second, _ = hands
    chore = OneChore()
    crew.take_on(chore)
    first.do(crew.come_back)
    second.do(crew.look_out)
    second.tell(crew.do_chore)
    assert second.is_waiting()
    assert chore.is_due()
    first.do(crew.step_aside)
    assert second.is_done()
    assert chore.doers == [second.sleeper.ident]
    second.do(crew.gathering.wait)


def test_chore_that_fails_ends_no_thread(
    crew: ServingCrew, hands: list[Hand], capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told in the log, and the thread goes on to the next request."""
    chore = OneChore()
    chore.fault = ValueError("out of luck")
    crew.take_on(chore)
    done: list[bool] = []
    hands[0].do(lambda: done.append(crew.do_chore()))
    hands[0].do(lambda: done.append(crew.do_chore()))
    assert done == [True, False]
    assert "out of luck" in "".join(capfd.readouterr())


def test_thread_that_follows_calls_for_the_chore_that_it_leaves(
    crew: ServingCrew, hands: list[Hand], calls: list[str]
) -> None:
    """Whoever looks out may have seen nothing to do, and be waiting for arrivals."""
    first, second, third = hands
    first.do(crew.look_out)
    first.do(crew.rest)
    second.tell(crew.look_out)
    assert second.is_following()
    assert not calls
    crew.take_on(OneChore())
    third.tell(crew.look_out)
    assert third.is_following()
    assert calls == ["call"]


def test_thread_that_leaves_calls_for_the_chore(
    crew: ServingCrew, hands: list[Hand], calls: list[str]
) -> None:
    """One that was lent to a client ends when it has received a change for others to commit."""
    first, second, _ = hands
    first.do(crew.look_out)
    first.do(crew.rest)
    second.do(crew.leave)
    assert not calls
    crew.take_on(OneChore())
    second.do(crew.leave)
    assert calls == ["call"]


def test_chore_for_which_no_thread_is_left_needs_one(crew: ServingCrew, hands: list[Hand]) -> None:
    """Threads that all wait for clients are too few, unless one still looks out."""
    first, second, _ = hands
    crew.take_on(OneChore())
    send_out(crew, first, second)
    assert not crew.is_short()
    first.do(crew.step_aside)
    assert second.is_done()
    assert not crew.is_short()
    second.do(crew.step_aside)
    assert crew.is_short()
    second.do(crew.do_chore)
    assert not crew.is_short()


def test_thread_that_looks_out_need_not_be_called(
    crew: ServingCrew, hands: list[Hand], calls: list[str]
) -> None:
    """It looks for the chore anyhow; any other thread has it called."""
    first, second, _ = hands
    first.do(crew.look_out)
    first.do(crew.call)
    assert not calls
    second.do(crew.call)
    assert calls == ["call"]


def test_thread_gives_way_only_if_others_want_to_run(crew: ServingCrew, hands: list[Hand]) -> None:
    """A short wait is not worth waking anybody for nothing."""
    first, second, third = hands
    send_out(crew, first, second)
    first.do(crew.give_way)
    assert not second.is_done(0)
    third.tell(crew.come_back)
    assert third.is_waiting()
    first.do(crew.give_way)
    assert third.is_done()
    assert second.is_done()
    third.do(crew.step_aside)
    first.do(lambda: crew.come_back(at_once=True))


@pytest.mark.integration
def test_request_that_waits_unexpectedly_does_not_keep_others(tmp_path: Path) -> None:
    """While a commit waits for the database, which it never announces, others are answered."""
    with running_target(tmp_path, WEB_CONCURRENCY="1") as target:
        answers: list[Answer] = []
        database = sqlite3.connect(tmp_path / "dfs.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        upload = threading.Thread(target=lambda: answers.append(target.upload(b"hello")))
        upload.start()
        with (tmp_path / "wal" / "control").open("rb") as lock:
            wait_until_locked(lock.fileno())
        for _ in range(5):
            assert target.get("/health").status == 200
        assert not answers
        database.execute("ROLLBACK")
        upload.join(WAIT_S)
        assert answers[0].status == 201
        database.close()


def wait_until_locked(fd: int) -> None:
    """Wait until another process holds this lock."""

    def is_locked() -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False

    assert wait_until(is_locked, timeout_s=WAIT_S, pause_s=0)
