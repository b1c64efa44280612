"""InlineQueue must behave to its caller as the real queue does, at once."""

from __future__ import annotations

import pytest

from dfs.queue.inline_queue import InlineQueue


def test_enqueue_runs_the_job_with_its_arguments() -> None:
    """The job has run when enqueue returns."""
    calls: list[dict[str, int]] = []
    queue = InlineQueue(jobs={"jobs.add": lambda **given: calls.append(given)})
    assert queue.enqueue("jobs.add", {"number": 3}, job_id="a")
    assert calls == [{"number": 3}]


def test_enqueue_from_inside_the_job_is_refused() -> None:
    """A job that asks for itself is told that it already runs, and is free again afterwards."""
    answers: list[bool] = []
    queue = InlineQueue(jobs={"jobs.again": lambda: answers.append(again())})

    def again() -> bool:
        return queue.enqueue("jobs.again", job_id="a")

    assert queue.enqueue("jobs.again", job_id="a")
    assert answers == [False]
    assert queue.enqueue("jobs.again", job_id="a")


def test_enqueue_failing_job_raises_and_frees_its_id() -> None:
    """The caller sees the job's error, and the id can be used again."""
    queue = InlineQueue(jobs={"jobs.fail": lambda: 1 // 0, "jobs.work": lambda: None})
    with pytest.raises(ZeroDivisionError):
        queue.enqueue("jobs.fail", job_id="a")
    assert queue.enqueue("jobs.work", job_id="a")


def test_enqueue_unknown_job_is_an_error() -> None:
    """A job that nobody knows is a mistake of the program."""
    with pytest.raises(KeyError):
        InlineQueue(jobs={}).enqueue("jobs.none", job_id="a")
