"""How much disk the log takes while as much is deleted as is stored."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.plan import MIB, Plan
from bench.plots import draw_curves
from bench.results import Outcome, Series, Table, Target
from bench.scale import make_config, make_upload
from dfs.core.clock import now_ms
from dfs.core.config import Config
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.command import RECORD_OVERHEAD_BYTES, Bytesless, Draft
from dfs.wal.record import DeleteFile
from dfs.wiring import Services, open_services

FILE_BYTES = 4096
COMMIT_FILES = 100
KEPT_EACH = 50
UPKEEP_BUDGET_S = 60.0
SPEED_BYTES_PER_S = 1 << 40
POINTS_MAX = 200
PLOT_NAME = "log-space.svg"


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the log took at one moment, in bytes.

    Attributes:
        pairs: files that had been stored and deleted again.
        used: space on the disk. live: records of files that were there.
        bound: what the log may take.
    """

    pairs: int
    used: int
    live: int
    bound: float

    @property
    def ratio(self) -> float:
        """Share of the bound that was taken."""
        return self.used / self.bound


def measure_space(plan: Plan) -> Outcome:
    """Size of the log under steady puts and deletes, against what compaction promises."""
    outcome = Outcome()
    with plan.scratch("space") as directory:
        config = make_config(
            directory,
            DFS_DELETE_GRACE_S="0",
            DFS_COMPACT_BYTES_PER_S=str(SPEED_BYTES_PER_S),
            DFS_WAL_SEGMENT_BYTES=str(plan.space_segment_bytes),
        )
        started = time.perf_counter()
        services = open_services(config)
        try:
            samples = list(_Churn(services, plan).run())
        finally:
            services.close()
        seconds = time.perf_counter() - started
    _report(samples, config, plan, outcome)
    outcome.notes.append(
        f"{samples[-1].pairs:,} files of {FILE_BYTES} different bytes were stored and deleted in "
        f"{seconds:.0f} s; {plan.space_window:,} newer ones were there at any time, and every "
        f"{KEPT_EACH}th stayed. Garbage is collected and the log compacted after each "
        f"{_step_of(plan):,} pairs; the disk use (`st_blocks`) is taken before and after that."
    )
    return outcome


class _RemoveFiles(Bytesless):
    """Put files into the trash: the records of as many deletes that share a commit."""

    def __init__(self, file_ids: Sequence[str]) -> None:
        self.file_ids = file_ids
        self.log_bytes_max = RECORD_OVERHEAD_BYTES * len(file_ids)

    def plan(self, index: IndexTransaction) -> list[Draft]:
        deleted_at_ms = now_ms()
        return [
            Draft(DeleteFile(id=file_id, deleted_at_ms=deleted_at_ms)) for file_id in self.file_ids
        ]


class _Churn:
    """Stores files and deletes older ones, at the same rate, in a node of this process."""

    def __init__(self, services: Services, plan: Plan) -> None:
        self._services = services
        self._plan = plan
        self._index = IndexRepository(services.index)
        self._newest: deque[str] = deque()
        self._kept_count = 0
        self._file_bytes = 0
        self._deleted_count = 0

    def run(self) -> Iterator[_Sample]:
        """Yield what the log takes, from when the first files are deleted on."""
        step = _step_of(self._plan)
        for first in itertools.count(0, step):
            self._store(range(first, first + step))
            if not self._delete():
                continue
            yield self._sample()
            self._do_upkeep()
            yield self._sample()
            if self._deleted_count >= self._plan.space_pairs:
                break
        _, buckets = self._index.usage()
        found = sum(used.files for used in buckets.values())
        if found != self._live_count:
            raise BenchError(f"{found} files are there, not {self._live_count}")

    @property
    def _live_count(self) -> int:
        return self._kept_count + len(self._newest)

    def _store(self, numbers: range) -> None:
        files = self._services.files
        for start in range(0, len(numbers), COMMIT_FILES):
            batch = numbers[start : start + COMMIT_FILES]
            stored = files.store([make_upload(files, number, FILE_BYTES) for number in batch]).files
            for number, file in zip(batch, stored, strict=True):
                if number % KEPT_EACH:
                    self._newest.append(file.id)
                else:
                    self._kept_count += 1
            if not self._file_bytes:
                blob = self._index.find_blob(stored[0].digest)
                if blob is None:
                    raise BenchError("a file that was stored has no bytes")
                self._file_bytes = blob.length + stored[0].base_length

    def _delete(self) -> int:
        """Delete the oldest files beyond those that are to be there. Returns how many."""
        count = max(0, len(self._newest) - self._plan.space_window)
        file_ids = [self._newest.popleft() for _ in range(count)]
        for start in range(0, count, COMMIT_FILES):
            self._services.committer.submit(_RemoveFiles(file_ids[start : start + COMMIT_FILES]))
        self._deleted_count += count
        return count

    def _do_upkeep(self) -> None:
        """Do once what the worker of a node does again and again."""
        self._services.garbage.work(budget_s=UPKEEP_BUDGET_S)
        self._services.compaction.work(budget_s=UPKEEP_BUDGET_S)
        self._services.replication.work("primary", budget_s=UPKEEP_BUDGET_S)

    def _sample(self) -> _Sample:
        config = self._services.config
        live = self._live_count * self._file_bytes
        bound = live / (1 - config.compact_dead_ratio) + 2 * config.wal_segment_bytes
        used = sum(
            file.path.stat().st_blocks * 512  # the unit of stat(2), whatever the disk's
            for file in self._services.log.segments()
        )
        return _Sample(self._deleted_count, used, live, bound)


def _step_of(plan: Plan) -> int:
    return plan.space_window // 10


def _report(samples: list[_Sample], config: Config, plan: Plan, outcome: Outcome) -> None:
    worst = max(samples, key=lambda sample: sample.ratio)
    outcome.keep("log_space_highest_ratio", Series((worst.ratio,)))
    outcome.targets.append(
        Target("log size over its bound, highest", worst.ratio, 1.0, at_most=True)
    )
    rows = [
        (
            moment,
            f"{sample.pairs:,}",
            *(f"{value / MIB:,.0f}" for value in (sample.used, sample.live, sample.bound)),
            f"{sample.ratio:.2f}",
        )
        for moment, sample in (("nearest to the bound", worst), ("in the end", samples[-1]))
    ]
    header = ("", "pairs", "log MiB", "live MiB", "bound MiB", "log / bound")
    title = f"Size of the log over {plan.space_pairs:,} puts and deletes"
    outcome.tables.append(Table(title, header, rows))
    outcome.notes.append(
        "The bound is live bytes / (1 - `DFS_COMPACT_DEAD_RATIO`) + two segments, here with "
        f"{config.compact_dead_ratio:g} and segments of "
        f"{config.wal_segment_bytes // MIB} MiB."
    )
    outcome.plots[PLOT_NAME] = _plot(samples)


def _plot(samples: list[_Sample]) -> str:
    """Return an SVG of the log beside its bound; of each stretch, the sample nearest to it."""
    stretch = -(-len(samples) // POINTS_MAX)
    points = [
        max(samples[start : start + stretch], key=lambda sample: sample.ratio)
        for start in range(0, len(samples), stretch)
    ]
    return draw_curves(
        "Size of the log (MiB) over pairs of put and delete",
        {
            "bound": [(point.pairs, point.bound / MIB) for point in points],
            "log": [(point.pairs, point.used / MIB) for point in points],
            "live": [(point.pairs, point.live / MIB) for point in points],
        },
    )
