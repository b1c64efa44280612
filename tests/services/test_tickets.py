"""Who leads a commit, and how those who wait for it are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dfs.core.errors import NoSuchFileError
from dfs.services import tickets
from dfs.services.changes import RemoveFile
from dfs.services.crew import Chore, Crew
from dfs.services.tickets import Ticket, TicketQueue
from tests.project.chaos_clients import wait_until

WAIT_S = 30.0
COUNT_MAX = 4


class DoingCrew(Crew):
    """A crew that does its chore when the test does."""

    does_chores = True

    def __init__(self) -> None:
        super().__init__(gather_s=0)
        self.calls = 0

    def take_on(self, chore: Chore) -> None:
        """Know the chore."""
        self.chore = chore

    def call(self) -> None:
        """Count."""
        self.calls += 1


class Rig:
    """A queue whose leader does what the test says, and notes whom it served."""

    def __init__(self, crew: Crew, *, bytes_max: int = 1 << 20) -> None:
        self.batches: list[list[Ticket]] = []
        self.before: Callable[[], object] = lambda: None
        self.leaders: list[int] = []
        self.queue = TicketQueue(
            crew=crew, lead=self.lead, bytes_max=bytes_max, count_max=COUNT_MAX
        )

    def lead(self) -> None:
        """Take a batch and settle it."""
        self.leaders.append(threading.get_ident())
        batch = self.queue.take()
        self.batches.append(batch)
        self.before()
        for ticket in batch:
            ticket.is_durable = True
        self.queue.settle(batch)

    def add(self, *, copies: int = 1) -> Ticket:
        """Let one more change wait."""
        ticket = Ticket(RemoveFile(file_id="0" * 26, if_match=None), copies=copies)
        self.queue.add(ticket)
        return ticket

    def sleep_over(self, ticket: Ticket) -> threading.Thread:
        """Have a thread sleep over a change that somebody else must lead."""
        thread = threading.Thread(target=self.queue.wait, args=(ticket,), daemon=True)
        thread.start()
        assert wait_until(lambda: ticket.sleeper is not None, timeout_s=WAIT_S, pause_s=0)
        return thread


@pytest.fixture
def crew() -> DoingCrew:
    """A crew."""
    return DoingCrew()


@pytest.fixture
def rig(crew: DoingCrew) -> Rig:
    """A queue of that crew."""
    return Rig(crew)


def test_changes_over_which_nobody_sleeps_are_a_chore(rig: Rig, crew: DoingCrew) -> None:
    """They are committed together, and whoever asked to be called is called once, afterwards."""
    told: list[int] = []
    for number in range(3):
        ticket = rig.add()
        rig.queue.when_settled(ticket, lambda number=number: told.append(number))  # type: ignore[misc]
    assert crew.chore.is_due()
    assert not told
    crew.chore.do()
    assert [len(batch) for batch in rig.batches] == [3]
    assert told == [0, 1, 2]
    assert not crew.chore.is_due()
    crew.chore.do()
    assert len(rig.batches) == 1


def test_call_for_a_settled_change_comes_at_once(rig: Rig, crew: DoingCrew) -> None:
    """A change may be settled before anybody has said what to do then."""
    ticket = rig.add()
    crew.chore.do()
    told: list[bool] = []
    rig.queue.when_settled(ticket, lambda: told.append(ticket.is_settled))
    assert told == [True]


def test_chore_presses_when_a_batch_is_full(
    rig: Rig, crew: DoingCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before more come to changes than one commit takes, it is made."""
    monkeypatch.setattr(tickets, "PRESS_S", WAIT_S)
    for _ in range(COUNT_MAX - 1):
        rig.add()
    assert not crew.chore.is_pressing()
    rig.add()
    assert crew.chore.is_pressing()
    crew.chore.do()
    assert not crew.chore.is_pressing()


def test_chore_presses_when_changes_have_waited(
    rig: Rig, crew: DoingCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much else arrives, a lone change is committed; those left over wait anew."""
    rig.add()
    assert wait_until(crew.chore.is_pressing, timeout_s=WAIT_S)
    rig.add(copies=2)
    crew.chore.do()
    assert crew.chore.is_due()
    monkeypatch.setattr(tickets, "PRESS_S", WAIT_S)
    assert not crew.chore.is_pressing()


def test_thread_sleeps_over_what_is_more_than_a_batch_takes(crew: DoingCrew) -> None:
    """Else clients could have any number of bytes wait while no commit is made."""
    rig = Rig(crew, bytes_max=1)
    ticket = rig.add()
    told: list[bool] = []
    rig.queue.when_settled(ticket, lambda: told.append(ticket.is_settled))
    assert told == [True]
    assert rig.leaders == [threading.get_ident()]


def test_thread_that_waits_leads_until_its_own_change_is_settled(rig: Rig) -> None:
    """Those in front of it, which need another batch, are committed first."""
    for _ in range(COUNT_MAX + 1):
        rig.add()
    own = rig.add(copies=2)
    rig.queue.wait(own)
    assert own.is_settled
    assert [len(batch) for batch in rig.batches] == [COUNT_MAX, 1, 1]


def test_thread_that_sleeps_leads_next(rig: Rig, crew: DoingCrew) -> None:
    """The lead goes to the first that sleeps over a change, and then nobody need be called."""
    slept: list[threading.Thread] = []

    def come_meanwhile() -> None:
        rig.before = lambda: None
        slept.append(rig.sleep_over(rig.add()))

    rig.before = come_meanwhile
    rig.queue.wait(rig.add())
    slept[0].join(WAIT_S)
    assert not slept[0].is_alive()
    assert rig.leaders == [threading.get_ident(), slept[0].ident]
    assert crew.calls == 0


def test_changes_that_came_during_a_commit_are_called_for(rig: Rig, crew: DoingCrew) -> None:
    """If nobody sleeps over them, some thread has to hear of them: it may have looked already."""

    def come_meanwhile() -> None:
        rig.before = lambda: None
        rig.add()
        assert not crew.chore.is_due()  # somebody leads

    rig.before = come_meanwhile
    rig.queue.wait(rig.add())
    assert crew.calls == 1
    assert crew.chore.is_due()
    crew.chore.do()
    assert crew.calls == 1


def test_crew_without_chores_waits_in_its_thread(rig: Rig) -> None:
    """Where no thread ever comes for a chore, whoever wants to be called leads himself."""
    other = Rig(Crew(gather_s=0))
    ticket = other.add()
    told: list[bool] = []
    other.queue.when_settled(ticket, lambda: told.append(ticket.is_settled))
    assert told == [True]


def test_outcome_of_a_change_that_failed_is_its_error() -> None:
    """Whoever asks for what was guaranteed gets what went wrong."""
    ticket = Ticket(RemoveFile(file_id="0" * 26, if_match=None))
    ticket.error = NoSuchFileError("There is none.")
    with pytest.raises(NoSuchFileError):
        ticket.outcome()


def test_commit_is_timed_from_when_its_leader_began(
    rig: Rig, crew: DoingCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from when the first of many did, each of whom has handed over to the next."""
    moment_s, timed_s = 100.0, []
    threads: list[threading.Thread] = []

    def pass_time() -> None:
        nonlocal moment_s
        moment_s += 5
        timed_s.append(rig.queue.led_s())
        if not threads:
            threads.append(rig.sleep_over(rig.add()))

    monkeypatch.setattr(tickets, "time", SimpleNamespace(monotonic=lambda: moment_s))
    rig.before = pass_time
    rig.add()
    assert rig.queue.led_s() == 0
    crew.chore.do()
    threads[0].join(timeout=WAIT_S)
    assert timed_s == [5, 5]
    assert rig.queue.led_s() == 0
