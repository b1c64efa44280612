"""The schedule must ask for each periodic job at its times, whatever the queue says."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from dfs.core.errors import QueueError
from dfs.core.filelock import FileLock
from dfs.core.signs import SCHEDULER_NAME
from dfs.queue.inline_queue import InlineQueue
from workers.schedule import Periodic, Schedule, has_no_scheduler, periodic_jobs


def test_schedule_enqueues_again_and_again() -> None:
    """A job comes at the start and then at its interval, until the schedule is stopped."""
    thrice = threading.Semaphore(0)
    queue = InlineQueue(jobs={"jobs.tick": thrice.release})
    schedule = Schedule(queue=queue, jobs=[Periodic("jobs.tick", "tick", 0.01)])
    schedule.start()
    assert all(thrice.acquire(timeout=10) for _ in range(3))
    schedule.stop()


def test_schedule_goes_on_when_the_queue_is_down() -> None:
    """A queue that fails once is asked again at the next turn."""
    came_back = threading.Event()
    failures = iter([QueueError("down")])

    def tick() -> None:
        for failure in failures:
            raise failure
        came_back.set()

    schedule = Schedule(
        queue=InlineQueue(jobs={"jobs.tick": tick}), jobs=[Periodic("jobs.tick", "tick", 0.01)]
    )
    schedule.start()
    assert came_back.wait(10)
    schedule.stop()


def test_schedule_of_a_worker_rests_while_a_scheduler_lives(tmp_path: Path) -> None:
    """Nothing is asked for while the lock is held, and all of it at the next turn after that."""
    ticked, asked = threading.Event(), threading.Semaphore(0)
    its = FileLock(tmp_path / SCHEDULER_NAME)

    def is_ours() -> bool:
        asked.release()
        return has_no_scheduler(tmp_path)

    schedule = Schedule(
        queue=InlineQueue(jobs={"jobs.tick": ticked.set}),
        jobs=[Periodic("jobs.tick", "tick", 0.01)],
        is_ours=is_ours,
    )
    with its.hold(timeout_s=0) as is_held:
        assert is_held
        schedule.start()
        assert all(asked.acquire(timeout=10) for _ in range(3))
        assert not ticked.is_set()
    assert ticked.wait(10)
    schedule.stop()
    its.close()


def test_worker_whose_lock_cannot_be_looked_at_schedules(tmp_path: Path) -> None:
    """What cannot be told must not leave the node without a schedule."""
    assert has_no_scheduler(tmp_path / "missing")


def test_workers_that_look_for_a_scheduler_do_not_take_each_other_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several may look at the same moment."""
    path = tmp_path / SCHEDULER_NAME
    path.touch()
    looks: list[bool] = []

    def flock(fd: int, operation: int) -> None:
        monkeypatch.undo()
        fcntl.flock(fd, operation)
        looks.append(has_no_scheduler(tmp_path))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert has_no_scheduler(tmp_path)
    assert looks == [True]


def test_periodic_jobs_sweep_often_enough() -> None:
    """The sweep comes several times within the age that it looks for, and at least hourly."""
    assert periodic_jobs(tmp_age_s=60, stores=())[-1].interval_s == 15
    assert periodic_jobs(tmp_age_s=86_400, stores=())[-1].interval_s == 3600


def test_periodic_jobs_look_after_every_store() -> None:
    """Each store has a job of its own for what it is owed and one for its scrub."""
    jobs = periodic_jobs(tmp_age_s=60, stores=("primary", "replica1"))
    found = {(job.job_id, job.job, job.arguments.get("store")) for job in jobs[:4]}
    assert found == {
        ("replicate-primary", "workers.jobs.replicate", "primary"),
        ("replicate-replica1", "workers.jobs.replicate", "replica1"),
        ("scrub-primary", "workers.jobs.scrub", "primary"),
        ("scrub-replica1", "workers.jobs.scrub", "replica1"),
    }
