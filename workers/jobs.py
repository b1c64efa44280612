"""The jobs, named in the queue as `workers.jobs.<function>`.

Each is safe to run twice and safe to kill at any point, and finds what it works on through the
services that its worker process opened. One that meets what may heal, such as a database that is
away, is put off: the schedule asks for it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import structlog

from dfs.core.errors import DfsError, StorageError
from dfs.services.scrub import ScrubReport
from dfs.services.turn import Turn
from dfs.storage.base import BlobStore, SweepsTemporaries
from dfs.wiring import Services

REPLICATE_BUDGET_S = 5.0
"""Then it is the turn of another store's job; each asks for its own next turn."""

COLLECT_BUDGET_S = 5.0
COMPACT_BUDGET_S = 1.0

SCRUB_BUDGET_S = 1.0
"""What is owed comes first: it waits for no more than this."""

P = ParamSpec("P")
Result = TypeVar("Result")

_services: ContextVar[Services] = ContextVar("services")


@contextmanager
def jobs_use(services: Services) -> Iterator[None]:
    """Let jobs that run in this thread inside the `with` block use `services`."""
    token = _services.set(services)
    try:
        yield
    finally:
        _services.reset(token)


def puts_off(job: Callable[P, Result]) -> Callable[P, Result | str]:
    """Have a job say in one line of the log what kept it, if that may heal; it has not failed."""

    @wraps(job)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result | str:
        try:
            return job(*args, **kwargs)
        except DfsError as error:
            if not error.retryable:
                raise
            log = structlog.get_logger()
            log.warning("job_put_off", job=job.__name__, code=error.code, error=str(error))
            return f"put off: {error.code}"

    return run


@puts_off
def replicate(store: str) -> str:
    """Work for a while on what a store is owed: its copy of the log, blob files, mends.

    Args:
        store: name of a replica, or of the primary.

    Returns:
        What was done, for the dashboard of the queue.
    """
    services = _services.get()
    report = services.replication.work(store, budget_s=REPLICATE_BUDGET_S)
    if report.more:
        services.hinter.wake((store,))
    return str(report)


@puts_off
def scrub(store: str) -> str:
    """Read the next slice of a store for damage, if it is time for it.

    Args:
        store: name of a store.

    Returns:
        What was done, for the dashboard of the queue.
    """
    services = _services.get()

    def work(turn: Turn[ScrubReport]) -> ScrubReport:
        return services.scrub.work(store, budget_s=SCRUB_BUDGET_S, on_progress=turn.note_progress)

    return str(services.turns.run(f"scrub-{store}", work))


@puts_off
def collect_garbage() -> str:
    """Work for a while on expired files, on those in the trash for too long, on unused blobs.

    Returns:
        What was done, for the dashboard of the queue.
    """
    return str(_services.get().garbage.work(budget_s=COLLECT_BUDGET_S))


@puts_off
def compact() -> str:
    """Read the next slice of a segment of the log that is mostly dead, if there is one.

    Returns:
        What was done, for the dashboard of the queue.
    """
    return str(_services.get().compaction.work(budget_s=COMPACT_BUDGET_S))


@puts_off
def sweep_temporaries() -> int:
    """Remove temporary files, of any store, that nobody has written to for DFS_TMP_AGE_S.

    Returns:
        How many were removed.
    """
    services = _services.get()
    return sum(_sweep(services, store) for store in services.stores.all())


def _sweep(services: Services, store: BlobStore) -> int:
    """Sweep a store, unless it does not answer: then its next sweep does."""
    if not isinstance(store, SweepsTemporaries):
        return 0
    sweep, age_s = store.sweep, services.config.tmp_age_s
    try:
        swept = services.turns.run(f"sweep-{store.name}", lambda turn: sweep(older_than_s=age_s))
    except StorageError as error:
        structlog.get_logger().warning("store_not_swept", store=store.name, error=str(error))
        return 0
    return swept or 0
