"""Lives of a node, one after the other, each ended by any crash at any point."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tests.model.disk import Disk
from tests.model.explore import Explorer, Level, Limits, Start
from tests.model.scenario import Change, Telling, Violation, check_node, open_node, store
from tests.model.world import Image, Process

NO_LIMITS = Limits()
PROBE = store("probe", b"p")
EMPTY = tuple(
    (path, None)
    for path in sorted(
        ["primary", "primary/blobs", "primary/damaged", "primary/segments", "primary/tmp", "wal"]
    )
)
"""The directories of a node that has never been started."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is tried.

    Attributes:
        processes: changes that each makes. before: changes that were made before.
        starts: numbers of the processes that open the node while the others are at work.
        pieces: into how many a write is torn.
        segment_bytes: size of a segment.
        limits: of the first life; in later ones all that can happen is the next crash.
    """

    name: str
    processes: tuple[tuple[Change, ...], ...]
    before: tuple[Change, ...] = ()
    starts: frozenset[int] = frozenset()
    limits: Limits = NO_LIMITS
    pieces: int = 2
    segment_bytes: int = 1 << 20
    is_new: bool = False


def run_scenario(explorer: Explorer, scenario: Scenario, *, crashes_max: int) -> None:
    """Try all of it.

    Args:
        crashes_max: so many crashes one after the other, in the processes and in the lives after
            them, each of which recovers the node and makes one change.

    Raises:
        Violation: a promise is broken.
    """
    start = Start(Image(Disk(EMPTY, pieces=scenario.pieces)))
    if not scenario.is_new:
        start = _prepare(explorer, scenario, start)
    programs = [
        partial(_work, scenario=scenario, changes=changes, is_hasty=number not in scenario.starts)
        for number, changes in enumerate(scenario.processes)
    ]
    levels = [Level() for _ in range(crashes_max + 1)]
    found = explorer.explore(start, programs, scenario.limits, levels[0])
    _follow(explorer, scenario, found, levels[1:])


def _follow(
    explorer: Explorer, scenario: Scenario, starts: Iterable[Start], levels: Sequence[Level]
) -> None:
    """Have a life begin at each of these, and the next ones at what crashes leave of it."""
    level, *later = levels
    program = partial(_live, scenario=scenario, changes=(PROBE,) if later else ())
    for start in starts:
        found = explorer.explore(start, [program], Limits(power_cuts=bool(later)), level)
        if later:
            _follow(explorer, scenario, found, later)
        else:
            deque(found, maxlen=0)


def _prepare(explorer: Explorer, scenario: Scenario, start: Start) -> Start:
    """Return a node at rest that has made the changes of before."""
    world = explorer.world(start.image)
    telling = Telling(start.known)

    def program(process: Process) -> None:
        with process.hastening(), open_node(world, segment_bytes=scenario.segment_bytes) as node:
            telling.make(process, node, scenario.before)

    choices = iter([(0, "go")])
    world.run([program], lambda: next(choices, None))
    error = world.processes[0].error
    if error is not None:
        raise Violation("the node cannot be prepared") from error
    image = world.image_after_kill()
    disk = Disk(image.disk.surviving_processes(), pieces=scenario.pieces)
    return Start(replace(image, disk=disk, indexes=image.indexes[-1:]), telling.known)


def _work(
    process: Process,
    telling: Telling,
    *,
    scenario: Scenario,
    changes: Sequence[Change],
    is_hasty: bool,
) -> None:
    """Be one of the processes of the first life."""
    process.is_hasty = is_hasty
    with open_node(process.world, segment_bytes=scenario.segment_bytes) as node:
        process.is_hasty = False
        process.step("opened")
        telling.make(process, node, changes)


def _live(
    process: Process, telling: Telling, *, scenario: Scenario, changes: Sequence[Change]
) -> None:
    """Recover, show what is there, make changes, and recover again."""
    world = process.world
    with open_node(world, segment_bytes=scenario.segment_bytes) as node:
        telling.known = telling.known.see(check_node(node, telling.known))
        process.history.clear()  # what a node that was just opened knows is what is there
        process.step("recovered")
        telling.make(process, node, changes)
        check_node(node, telling.known)
    with process.hastening(), open_node(world, segment_bytes=scenario.segment_bytes) as node:
        before = world.disk.surviving_processes()
        check_node(node, telling.known)
        if node.recovered.replayed or world.disk.surviving_processes() != before:
            raise Violation("recovery does not leave alone what was recovered")
