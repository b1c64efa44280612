"""Every file of a node, and everything that may befall it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from tests.damage.harm import list_harms
from tests.damage.look import Verdict, examine
from tests.damage.store import Template

MEMORY_BYTES_MAX = 8 << 30
"""Reading a device without end must not take the machine's memory."""


@dataclass(frozen=True, slots=True)
class Case:
    """One harm to one file, by name."""

    path: str
    harm: str


def list_cases(template: Template, *, sample: int | None) -> list[Case]:
    """Return all harms to all files of a node; see `harm.list_harms`."""
    return [
        Case(path, harm)
        for path in template.paths()
        for harm in list_harms(template.directory / path, sample=sample)
    ]


def try_case(template: Template, case: Case, *, sample: int | None) -> Verdict:
    """Damage a copy of a node, and see what comes of it."""
    with memory() as directory, quiet():
        template.copy(directory)
        path = directory / case.path
        list_harms(path, sample=sample)[case.harm](path)
        verdict = examine(directory, template)
        verdict.words = [each.replace(str(directory), "") for each in verdict.words]
        return verdict


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """Have a directory, in memory if there is room for one."""
    shared = Path("/dev/shm")  # a directory of our own, with a name of chance
    parent = shared if os.access(shared, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Bound the memory of this process inside the block."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the node log nothing inside the block."""
    config = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**config)
