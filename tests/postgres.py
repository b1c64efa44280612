"""A throwaway PostgreSQL server for the tests: own data directory, own port, nothing kept."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15


def find_server_binaries() -> Path:
    """Return the directory of `initdb` and `postgres`.

    Raises:
        FileNotFoundError: there is none on PATH, nor where Debian and Homebrew put it.
    """
    on_path = shutil.which("initdb")
    roots = [Path("/usr/lib/postgresql"), Path("/opt/homebrew/opt"), Path("/usr/local/opt")]
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(path.parent for root in roots for path in root.glob("*/bin/initdb"))
    for directory in reversed(found):
        if (directory / "postgres").exists():
            return directory
    raise FileNotFoundError("PostgreSQL's initdb and postgres: install the package `postgresql`.")


@dataclass
class PostgresServer:
    """A running server.

    Attributes:
        port: TCP port on 127.0.0.1.
        process: the server itself, to be killed by a test that wants it gone.
    """

    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        """Return the address of a database of this server."""
        return f"postgresql://dfs@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str) -> None:
        """Run one statement as administrator, outside of a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type,unused-ignore]

    @contextlib.contextmanager
    def new_database(self) -> Iterator[str]:
        """Create an empty database, yield its address, and drop it whoever still uses it."""
        name = f"dfs_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server, yield it when it answers, stop it and remove its data.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
        RuntimeError: it did not start; the message ends in its log.
    """
    binaries = find_server_binaries()
    # Not below pytest's tmp_path: that is closed to the other user whom a root run needs.
    directory = Path(tempfile.mkdtemp(prefix="dfs-postgres-"))
    identity = _server_identity()
    if identity:
        os.chown(directory, identity["user"], identity["group"])
    try:
        data = directory / "data"
        _run_initdb(binaries, data, identity)
        with _started(binaries, data, identity) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _server_identity() -> dict[str, int]:
    """Return the user and group to run as; PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise RuntimeError("There is neither a user `postgres` nor `nobody` to run the server as.")


def _run_initdb(binaries: Path, data: Path, identity: dict[str, int]) -> None:
    command = [binaries / "initdb", "-D", data, "-U", "dfs", "-A", "trust", "-E", "UTF8"]
    # A locale whose order is not that of code points, if there is one, would show a missing
    # COLLATE; C.UTF-8 and C are the ones that are always there.
    result = subprocess.run(
        [*command, "--no-sync", "--locale=C.UTF-8"],
        cwd="/",
        capture_output=True,
        check=False,
        extra_groups=[] if identity else None,
        **identity,  # type: ignore[arg-type,unused-ignore]
    )
    if result.returncode != 0:
        raise RuntimeError(f"initdb failed: {result.stderr.decode(errors='replace')}")


@contextlib.contextmanager
def _started(binaries: Path, data: Path, identity: dict[str, int]) -> Iterator[PostgresServer]:
    port = _free_port()
    settings = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        "unix_socket_directories=",
        "fsync=off",
        "max_connections=200",
    ]
    log_path = data.parent / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(x for s in settings for x in ("-c", s))],
            cwd="/",
            stdout=log,
            stderr=log,
            extra_groups=[] if identity else None,
            **identity,  # type: ignore[arg-type,unused-ignore]
        )
        server = PostgresServer(port, process)
        try:
            _wait_until_ready(server, log_path)
            yield server
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(server: PostgresServer, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError):
            server.execute("SELECT 1")
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {log_path.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(2)  # SIGINT: disconnect everybody and stop.
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
