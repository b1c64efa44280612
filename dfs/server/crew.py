"""Which of the threads that serve runs.

One at a time, of which one also looks for arrivals. Python runs one thread at a time anyhow, but
changes between those that could run at every system call, however short, and each change costs
more than most of what is done between two of them. Here a thread runs until it has to wait:

- it looks for the next request and serves it; as long as it need not wait for anything but the
  next request, no other thread is woken at all;
- a request that waits for its commit keeps no thread: when nothing else has arrived, the thread
  commits for all of them, as its chore, and answers them;
- before it waits (for the disk, a client) it steps aside: another looks for arrivals;
- when it need not wait any more it queues up to come back.

This is the pattern "leader/followers" (Schmidt, Pattern-Oriented Software Architecture 2, 2000),
with the promotion of the next leader put off until it is needed.

Nobody has to say so before every call that may take long: a watch takes the turn from a thread that
has run for too long, as the scheduler of Go does with threads that stay in a system call. It goes
on beside the others then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from dfs.services.crew import Chore, Crew, Sleeper

log = structlog.get_logger()

RUN_S = 0.005
"""How long a thread runs, at least, until the watch lets another run beside it."""
WATCHES_IDLE = 100
"""After so many looks at nothing the watch sleeps until somebody runs."""


class ServingCrew(Crew):
    """The threads of a process that serve.

    Args:
        has_arrivals: tells whether a request waits for a thread.
        call: has the thread that looks for arrivals look for the chore, too.
        gather_s: see `Crew`.
    """

    does_chores = True

    def __init__(
        self, *, has_arrivals: Callable[[], bool], call: Callable[[], None], gather_s: float
    ) -> None:
        super().__init__(gather_s=gather_s)
        self._has_arrivals = has_arrivals
        self._call = call
        self._chore: Chore | None = None
        self._mutex = threading.Lock()
        self._members: set[int] = set()
        self._runner: int | None = None
        self._turn = 0
        self._queue: deque[Sleeper] = deque()
        self._lookout: int | None = None
        self._is_lookout_expected = False
        self._followers: list[Sleeper] = []
        self._turn_seen = 0
        self._watch: Sleeper | None = None

    # What a thread that serves does

    def join(self) -> None:
        """Have the calling thread be one of those that run one at a time."""
        self._members.add(threading.get_ident())

    def leave(self) -> None:
        """Have it be none of them any more."""
        self.step_aside()
        self._members.discard(threading.get_ident())
        self._call_if_due()

    def look_out(self) -> None:
        """Wait until the calling thread is the one that looks for arrivals."""
        me = threading.get_ident()
        if self._lookout == me:
            return
        with self._mutex:
            if self._lookout is None:
                self._lookout = me
                self._expect_lookout(True)
                return
            sleeper = Sleeper()
            self._followers.append(sleeper)
            self._end_turn(me)
        self._call_if_due()
        sleeper.sleep()

    def is_pressed(self) -> bool:
        """Tell whether the chore comes before what may have arrived."""
        return self._chore is not None and self._chore.is_pressing()

    def do_chore(self) -> bool:
        """Do the chore, at the turn of the calling thread. False: there is nothing to do."""
        chore = self._chore
        if chore is None or not chore.is_due():
            return False
        self.begin()
        with self._mutex:
            if self._lookout == threading.get_ident():
                self._expect_lookout(False)
        try:
            chore.do()
        except Exception as error:
            log.error("chore_failed", exc_info=error)
        return True

    def rest(self) -> bool:
        """Say that nothing has arrived, before waiting for it. False: another looks out now."""
        me = threading.get_ident()
        with self._mutex:
            if self._lookout != me:
                return False
            self._expect_lookout(False)
            self._end_turn(me)
        return True

    def begin(self) -> None:
        """Begin to serve what has arrived, when it is the calling thread's turn."""
        me = threading.get_ident()
        with self._mutex:
            if self._lookout == me:
                self._expect_lookout(True)
            if self._runner == me:
                self._turn += 1
                if not self._queue:
                    return
            self._end_turn(me)
        self.come_back()

    def is_short(self) -> bool:
        """Tell whether a request, or the chore, waits though no thread is left that could look."""
        if self._followers:
            return False
        return self._has_arrivals() or (self._lookout is None and self._is_due())

    def _is_due(self) -> bool:
        return self._chore is not None and self._chore.is_due()

    def _call_if_due(self) -> None:
        """Have the chore done that the calling thread leaves: whoever looks out may be resting."""
        if self._is_due():
            self._call()

    # What any thread does that has to wait

    def take_on(self, chore: Chore) -> None:
        self._chore = chore

    def call(self) -> None:
        if threading.get_ident() != self._lookout:
            self._call()

    def give_way(self) -> None:
        if self._queue or (self._lookout == threading.get_ident() and self._has_arrivals()):
            self.step_aside()

    def step_aside(self) -> None:
        me = threading.get_ident()
        if me not in (self._runner, self._lookout):
            return
        has_arrivals = self._lookout == me and self._has_arrivals()
        with self._mutex:
            if self._lookout == me:
                self._pass_lookout(has_arrivals)
            self._end_turn(me)

    def come_back(self, *, at_once: bool = False) -> None:
        me = threading.get_ident()
        if me not in self._members:
            return
        with self._mutex:
            if self._runner in (me, None):
                self._give_turn(me)
                return
            sleeper = Sleeper()
            if at_once:
                self._queue.appendleft(sleeper)
            else:
                self._queue.append(sleeper)
        sleeper.sleep()

    def wake(self, sleepers: Iterable[Sleeper]) -> None:
        with self._mutex:
            for sleeper in sleepers:
                if sleeper.ident in self._members:
                    self._queue.append(sleeper)
                else:
                    sleeper.wake()
            if self._runner is None:
                self._next_turn()

    # The watch

    def watch(self) -> None:
        """Look after the threads for ever; in a thread that is none of them."""
        looks = 0
        while True:
            time.sleep(RUN_S)
            looks = 0 if self.look() else looks + 1
            if looks > WATCHES_IDLE:
                sleeper = Sleeper()
                with self._mutex:
                    if self._runner is None:
                        self._watch = sleeper
                if self._watch is sleeper:
                    sleeper.sleep()

    def look(self) -> bool:
        """Let another thread run if one has run since the last look. Returns whether any runs."""
        with self._mutex:
            runner = self._runner
            if runner is not None and self._turn == self._turn_seen:
                if self._lookout == runner:
                    self._pass_lookout(has_arrivals=True)
                if self._queue:
                    self._end_turn(runner)
            self._turn_seen = self._turn
        return runner is not None

    # Under the mutex

    def _give_turn(self, ident: int) -> None:
        self._runner = ident
        self._turn += 1
        if self._watch is not None:
            self._watch.wake()
            self._watch = None

    def _end_turn(self, ident: int) -> None:
        """End the turn of a thread, if it is its turn."""
        if self._runner == ident:
            self._runner = None
            self._next_turn()

    def _next_turn(self) -> None:
        if self._queue:
            sleeper = self._queue.popleft()
            self._give_turn(sleeper.ident)
            sleeper.wake()

    def _pass_lookout(self, has_arrivals: bool) -> None:
        """Have another thread look for arrivals; at its turn if there are any."""
        if not self._followers:
            self._lookout = None
            self._expect_lookout(False)
            return
        follower = self._followers.pop()
        self._lookout = follower.ident
        self._expect_lookout(has_arrivals)
        if has_arrivals:
            self._queue.append(follower)
        else:
            follower.wake()

    def _expect_lookout(self, is_expected: bool) -> None:
        """Have a commit wait, or not, for what the thread finds that looks for arrivals."""
        if self._is_lookout_expected != is_expected:
            self._is_lookout_expected = is_expected
            if is_expected:
                self.gathering.expect()
            else:
                self.gathering.forgo()
