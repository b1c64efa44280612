"""Trying everything: all interleavings, all crash points, all that a power cut may leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.model.kernel import Kernel, watching
from tests.model.scenario import Known, Telling, Violation
from tests.model.world import Image, Process, World

Program = Callable[[Process, Telling], None]
Choice = tuple[int, str]
"""(process, what becomes of its step)."""


@dataclass(frozen=True, slots=True)
class Start:
    """What processes begin with, and what had been told before."""

    image: Image
    known: Known = field(default_factory=Known)

    @property
    def key(self) -> int:
        """What tells it from others."""
        return hash((self.image.key, self.known))


@dataclass(slots=True)
class Tally:
    """How much was tried.

    Attributes:
        executions: of the real code, from a start to its end or to where it was known.
        states: in which a crash was tried. images: different ones that a crash has left.
    """

    executions: int = 0
    steps: int = 0
    states: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may go wrong in one life of the processes.

    Attributes:
        kills: of a process while others live. mortals: those it may be; None: any.
        faults: calls that fail.
    """

    kills: int = 0
    mortals: frozenset[int] | None = None
    faults: int = 0
    power_cuts: bool = True


@dataclass(slots=True)
class Level:
    """What was tried already with some programs, by keys.

    Attributes:
        states: in which a crash was tried. starts: which crashes have left.
    """

    states: set[int] = field(default_factory=set)
    starts: set[int] = field(default_factory=set)


@contextlib.contextmanager
def exploring() -> Iterator[Explorer]:
    """Have an explorer, and a place in memory for its worlds if there is one."""
    memory = Path("/dev/shm")  # directories of our own, with names of chance
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as scratch, watching() as kernel:
        yield Explorer(kernel, Path(scratch))


class Explorer:
    """Runs programs in all ways, and gathers what crashes leave.

    Args:
        kernel: watching. scratch: where the directories of the worlds are made.
    """

    def __init__(self, kernel: Kernel, scratch: Path) -> None:
        self._kernel = kernel
        self._scratch = scratch
        self.tally = Tally()

    def explore(
        self, start: Start, programs: Sequence[Program], limits: Limits, level: Level
    ) -> Iterator[Start]:
        """Run programs from a start in all ways.

        Args:
            level: what was tried with these programs before; what is tried now is added.

        Yields:
            What crashes at any point may leave, and was not known.

        Raises:
            Violation: naming the way.
        """
        # The ways with the fewest turns first: a fault of the protocol mostly shows after one or
        # two (Musuvathi and Qadeer, Iterative Context Bounding, PLDI 2007).
        frontier: deque[tuple[Choice, ...]] = deque([()])
        while frontier:
            run = _Run(
                self,
                start,
                programs=programs,
                limits=limits,
                prefix=frontier.popleft(),
                level=level,
            )
            frontier.extend(run.run())
            yield from run.found

    def world(self, image: Image) -> World:
        """Return a new world, watched from now on."""
        directory = self._scratch / str(self.tally.executions)
        directory.mkdir()
        world = World(directory, image)
        self._kernel.watch(world)
        self.tally.executions += 1
        return world


class _Run:
    """One way through the programs."""

    def __init__(
        self,
        explorer: Explorer,
        start: Start,
        *,
        programs: Sequence[Program],
        limits: Limits,
        prefix: tuple[Choice, ...],
        level: Level,
    ) -> None:
        self.found: list[Start] = []
        self._tally = explorer.tally
        self._world = explorer.world(start.image)
        self._telling = Telling(start.known)
        self._programs = programs
        self._limits = limits
        self._prefix = prefix
        self._level = level
        self._path: list[Choice] = []
        self._names: list[str] = []
        self._branches: list[tuple[Choice, ...]] = []

    def run(self) -> list[tuple[Choice, ...]]:
        """Go on to the end, or to where another run was. Returns the ways that branch off."""
        programs = [partial(self._guard, program) for program in self._programs]
        try:
            self._world.run(programs, self._decide)
            if self._world.error is not None:
                raise self._world.error
        except Violation as error:
            error.add_note(f"on the way: {'; '.join(self._names)}")
            raise
        finally:
            shutil.rmtree(self._world.directory)
        return self._branches

    def _decide(self) -> Choice | None:
        """Say what comes next; None at the end, and where another run was before."""
        processes = self._world.processes
        for process in processes:
            if process.error is not None:
                if isinstance(process.error, Violation):
                    raise process.error
                raise Violation(f"a process ended with {process.error!r}") from process.error
        if all(process.has_ended for process in processes):
            self._collect()
            return None
        options = self._options()
        if not options:
            raise Violation("all processes wait for each other")
        if len(self._path) < len(self._prefix):
            choice = self._prefix[len(self._path)]
        elif self._is_known():
            return None
        else:
            self._collect()
            choice = options[0]
            self._branches.extend((*self._path, other) for other in options[1:])
        number, verdict = choice
        self._names.append(f"{number} {verdict} {processes[number].at}")
        self._path.append(choice)
        self._tally.steps += 1
        processes[number].history.append(choice)
        return choice

    def _guard(self, program: Program, process: Process) -> None:
        program(process, self._telling)

    def _is_known(self) -> bool:
        key = hash((self._world.fingerprint(), self._telling.known))
        is_known = key in self._level.states
        self._level.states.add(key)
        return is_known

    def _options(self) -> list[Choice]:
        """Return what may come next, the process that was last at work first."""
        last = self._path[-1][0] if self._path else 0
        processes = [each for each in self._world.processes if not each.has_ended]
        new = [each for each in processes if each.at == "begin"]
        if new:  # those that find the node open, or begin to open it, are all there first
            return [(new[0].number, "go")]
        processes.sort(key=lambda each: each.number != last)
        verdicts = [verdict for _, verdict in self._path]
        may_kill = sum(each in ("kill", "tear") for each in verdicts) < self._limits.kills
        may_fail = verdicts.count("fail") < self._limits.faults
        options = [(each.number, "go") for each in processes if each.is_free()]
        for each in processes:
            is_mortal = may_kill and each.number in (self._limits.mortals or {each.number})
            if is_mortal and len(processes) > 1:
                options.append((each.number, "kill"))
            if each.is_tearable and (is_mortal or len(self._world.processes) == 1):
                options.append((each.number, "tear"))
            if may_fail and each.is_fallible:
                options.append((each.number, "fail"))
        return options

    def _collect(self) -> None:
        """Gather what a crash leaves now."""
        self._tally.states += 1
        known = self._telling.known
        images = [self._world.image_after_kill()]
        if self._limits.power_cuts:
            images += self._world.images_after_power_cut()
        for image in images:
            start = Start(image, known)
            if start.key not in self._level.starts:
                self._level.starts.add(start.key)
                self.found.append(start)
                self._tally.images += 1
