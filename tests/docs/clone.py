"""A place like a fresh clone of the repository, for commands that a page tells to run there."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from tests.docs.pages import ROOT
from torture.node import program_environ

COPIED = ("requirements.txt", "requirements-dev.txt", "constraints.txt")
"""Dated back there, so that make finds .venv newer and installs nothing."""
LEFT_OUT = frozenset((".git", ".env", "data", "build"))
DOCUMENTED_ADDRESS = "127.0.0.1:8000"
PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to whoever asks for any, so that nobody else gets it."""


def make_clone(directory: Path) -> None:
    """Fill a directory with links to what the repository has."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in ROOT.iterdir():
        if path.name in COPIED:
            shutil.copy(path, directory)
            os.utime(directory / path.name, (0, 0))
        elif path.name not in LEFT_OUT and path.suffix != ".pyc":
            (directory / path.name).symlink_to(path)
    environment = directory / ".venv"
    if not environment.exists():  # tests may run by another interpreter than that of `make setup`
        environment.symlink_to(Path(sys.executable).parents[1])


def clone_environ(directory: Path, **settings: str) -> dict[str, str]:
    """Return the environment of somebody who works there, with nothing of the tests' own.

    Unless other settings are given: on a free port, with one web worker.
    """
    chosen = {"PORT": str(free_port()), "WEB_CONCURRENCY": "1", **settings}
    environ = program_environ(directory, chosen)
    programs = directory / ".venv" / "bin"
    return {**environ, "PATH": f"{programs}{os.pathsep}{environ['PATH']}", "MAKEFLAGS": ""}


def free_port() -> int:
    """Return a port that nobody listens on, and nobody will be given."""
    start = os.getpid() * 7 % len(PORTS)
    for port in (*PORTS[start:], *PORTS[:start]):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
