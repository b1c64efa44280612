"""Runs a whole node: a queue server if none is configured, and the lines of the Procfile.

But for the scheduler's: the worker asks for the periodic jobs by itself, and saves a process.

python -m scripts.run          until Ctrl-C or SIGTERM (exit 0), or until the web server ends (1)
python -m scripts.run up       the same in the background; returns when the node is ready
python -m scripts.run down     stops what `up` started
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from honcho.environ import parse_procfile

from dfs.core.address import own_address
from dfs.core.config import Config, load_config
from dfs.core.errors import ConfigError
from dfs.core.modes import keep_files_private
from dfs.core.parent import adopt_orphans
from dfs.core.settings import MORE_REPLICAS, SETTINGS
from scripts.embedded_redis import find_server, free_port, launch, start_redis
from scripts.supervisor import (
    Child,
    Part,
    block_stop_signals,
    describe_end,
    keep_running,
    start_child,
    stop_children,
)

ROOT = Path(__file__).resolve().parent.parent
BACKGROUND_START_TIMEOUT_S = 600
VITAL = "web"
"""The line of the Procfile whose end is the node's end."""
SPARED = "scheduler"
"""The line whose work the worker does as well."""


class StartError(Exception):
    """The node cannot start, for a reason that its operator can mend."""


def claim_run_path(run_path: Path) -> IO[str]:
    """Make sure that no other node uses these files, for as long as the returned file is open.

    The file holds our process id, for `down`.

    Raises:
        StartError: another one does.
    """
    try:
        run_path.mkdir(parents=True, exist_ok=True)
        claim = (run_path / "run.pid").open("a+")
    except OSError as error:
        raise StartError(f"DFS_RUN_PATH={run_path}: {error.strerror}.") from error
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.seek(0)
        raise StartError(
            f"A node already runs with these files: process {claim.read().strip()}, {run_path}.\n"
            "Stop it, or give this one its own: PORT, STORAGE_PATH, WAL_PATH, DATABASE_URL, "
            "DFS_RUN_PATH."
        ) from None
    claim.truncate(0)
    claim.write(f"{os.getpid()}\n")
    claim.flush()
    return claim


def choose_port(config: Config) -> int:
    """Return the port for HTTP: the configured one, or a free one for 0.

    Raises:
        StartError: something else listens there, or the address is not this machine's.
    """
    if config.port == 0:
        return free_port(config.host)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"Port {config.port} of {config.host} is taken by another program. "
                    f"Choose another: PORT={config.port + 1} make run"
                ) from error
            raise StartError(
                f"Cannot listen on {config.host}:{config.port}: {error.strerror}. "
                "See PORT and DFS_HOST."
            ) from error
    return config.port


def child_environ(config: Config, *, port: int, redis_url: str) -> dict[str, str]:
    """Return the environment of the node's processes: each setting, with absolute paths."""
    locations = dict(config.replicas)
    values = {
        setting.name: locations.get(setting.attribute)  # one that is not there is set to nothing
        if MORE_REPLICAS.fullmatch(setting.name)
        else getattr(config, setting.attribute)
        for setting in SETTINGS
    }
    values |= {f"{name.upper()}_PATH": location for name, location in locations.items()}
    settings = {name: "" if value is None else str(value) for name, value in values.items()}
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **settings,
        "PORT": str(port),
        "REDIS_URL": redis_url,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }


def start_parts(environ: Mapping[str, str]) -> list[Part]:
    """Start the lines of the Procfile."""
    lines = parse_procfile((ROOT / "Procfile").read_text()).processes
    parts = []
    for name, line in lines.items():
        if name == SPARED:
            continue
        command = ["/bin/sh", "-c", f"exec {line}"]
        start = partial(start_child, name, command, environ=environ, directory=ROOT)
        is_vital = name == VITAL
        parts.append(Part(start=start, child=start(), vital=is_vital, renewed=not is_vital))
    return parts


def start_queue(run_path: Path) -> tuple[Part, str]:
    """Start a queue server of the node's own, and wait until it answers. Returns its address, too.

    Raises:
        RuntimeError, FileNotFoundError: there is none, or it does not start.
    """
    program, directory = find_server(), run_path / "redis"
    child, url = start_redis(program, directory=directory)
    port = urlsplit(url).port or 6379
    return Part(start=partial(launch, program, directory, port), child=child), url


def node_url(config: Config, port: int) -> str:
    """Return the address under which a browser on this machine finds the node."""
    scheme = "http" if config.tls_cert_path is None else "https"
    host = own_address(config.host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def announce(url: str, auth: str) -> Child:
    """Have a process of its own tell when the node is ready; its libraries go with it."""
    command = [sys.executable, "-m", "scripts.announcement", url, auth]
    child = start_child("announcement", command, environ=os.environ, directory=ROOT)
    threading.Thread(target=child.process.wait, daemon=True).start()  # leaves no zombie
    return child


def run_node(config: Config) -> int:
    """Run the node until a stop signal or the end of its web server.

    Without its queue, or what works on it, the node serves on, and they are started again.

    Returns:
        0 after a stop signal, 1 when the web server ended by itself.

    Raises:
        StartError: it cannot start.
    """
    with claim_run_path(config.run_path):
        adopt_orphans()  # of whom one may be the web server of an upgrade
        port = choose_port(config)
        queue: list[Part] = []
        parts: list[Part] = []
        announcement: list[Child] = []
        try:
            redis_url = config.redis_url
            if redis_url is None:
                part, redis_url = start_queue(config.run_path)
                queue.append(part)
            parts += start_parts(child_environ(config, port=port, redis_url=redis_url))
            announcement.append(announce(node_url(config, port), config.auth))
            dead = keep_running([*queue, *parts])
        except (RuntimeError, FileNotFoundError) as error:
            raise StartError(str(error)) from error
        finally:
            stop_children(announcement)
            orderly = stop_children(running(parts))
            stop_children(running(queue))
    return tell_end(dead, orderly=orderly)


def running(parts: Iterable[Part]) -> list[Child]:
    """Return the processes of those parts that have one."""
    return [part.child for part in parts if part.child is not None]


def tell_end(dead: Child | None, *, orderly: bool) -> int:
    """Say how the node ended. Returns the exit status."""
    if dead is not None:
        how = describe_end(dead)
        print(f"dfs: {dead.name} {how}; everything else was stopped.", file=sys.stderr)
        return 1
    print("dfs has stopped." if orderly else "dfs was stopped by force.", flush=True)
    return 0


def start_in_background(config: Config) -> int:
    """Start a node that outlives this process. Returns 0 once it is ready. Raises StartError."""
    with claim_run_path(config.run_path):
        pass  # else the log of a node that runs would be emptied
    log_path = config.run_path / "node.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + BACKGROUND_START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        ready = [
            line
            for line in log_path.read_text(errors="replace").splitlines()
            if "dfs is ready:" in line
        ]
        if ready:
            print(f"{ready[0].strip().partition('   ')[0]}   `make down` stops it. Log: {log_path}")
            return 0
        time.sleep(0.1)
    print(log_path.read_text(errors="replace")[-4000:], file=sys.stderr)
    return 1


def stop_background(config: Config) -> int:
    """Stop the node that uses these settings, and wait for its end. Returns 0 if none runs then."""
    pid_path = config.run_path / "run.pid"
    if not pid_path.exists():
        print("No node runs here.")
        return 0
    with pid_path.open() as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(claim.read()), signal.SIGTERM)
            fcntl.flock(claim, fcntl.LOCK_EX)
            print("dfs has stopped.")
        else:
            print("No node runs here.")
    return 0


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.run", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("run", "up", "down"), default="run")
    action = parser.parse_args().action
    try:
        config = load_config()
        if action == "up":
            return start_in_background(config)
        if action == "down":
            return stop_background(config)
        block_stop_signals()
        return run_node(config)
    except ConfigError as error:
        print(f"dfs: {error.message.replace('; ', chr(10) + '  ')}", file=sys.stderr)
    except StartError as error:
        print(f"dfs: {error}", file=sys.stderr)
    except PermissionError as error:
        print(f"dfs: {error.filename or 'the node'} is another user's.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    keep_files_private()
    sys.exit(main())
