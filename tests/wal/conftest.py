"""Fixtures of the log tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.core.steps import OnStep, ignore_step
from dfs.wal.log import WriteAheadLog
from tests.wal.logs import SEGMENT_BYTES, recover

OpenLog = Callable[..., WriteAheadLog]


@pytest.fixture(scope="module")
def memory_path() -> Iterator[Path]:
    """Path of one file in memory, for tests that write thousands of segments."""
    fd = os.memfd_create("segment")
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)


@pytest.fixture
def log_path() -> Iterator[Path]:
    """Directory of the log under test, in memory where there is such a file system."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name) / "wal"


@pytest.fixture
def open_log(log_path: Path) -> Iterator[OpenLog]:
    """Open the log under test, recovered unless told otherwise, as often as wanted."""
    logs: list[WriteAheadLog] = []

    def open_one(
        *,
        recovered: bool = True,
        preallocate_bytes: int = 4096,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = 0,
        on_step: OnStep = ignore_step,
    ) -> WriteAheadLog:
        log = WriteAheadLog(
            path=log_path,
            segment_bytes=segment_bytes,
            preallocate_bytes=preallocate_bytes,
            reserve_bytes=reserve_bytes,
            on_step=on_step,
        )
        log.open()
        logs.append(log)
        if recovered:
            recover(log)
        return log

    yield open_one
    for log in logs:
        log.close()
