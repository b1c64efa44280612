"""A throwaway PostgreSQL server: own data directory, own port, nothing kept."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


class PostgresServer:
    """A server whose data is in a directory of its own.

    Args:
        directory: for `data/` and the server's log.
        settings: further lines of its configuration, as `name=value`.
        environ: further environment variables.

    Attributes:
        port: TCP port on 127.0.0.1; the same after each start.
        process: the server itself, to be killed by a test that wants it gone.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
        RuntimeError: its data directory could not be made.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        directory: Path,
        *,
        settings: Sequence[str] = ("fsync=off",),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = _free_port()
        self._binaries = find_server_binaries()
        self._identity = _server_identity()
        self._data = directory / "data"
        self._log_path = directory / "server.log"
        self._settings = settings
        self._environ = {**os.environ, **(environ or {})}
        if self._identity:
            os.chown(directory, self._identity["user"], self._identity["group"])
        self._run_initdb()

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it did not start; the message ends in its log.
        """
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it without waiting."""
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=200",
            *self._settings,
        ]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command("postgres", *(x for s in settings for x in ("-c", s))),
                cwd="/",
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._run_as(),
            )

    def await_ready(self) -> None:
        """Wait until it answers. Raises RuntimeError."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            time.sleep(0.05)
        log = self._log_path.read_text(errors="replace")
        raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}")

    def stop(self) -> None:
        """Disconnect everybody and stop it."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it, with all the processes that serve its clients."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def url(self, database: str) -> str:
        """Return the address of a database of this server."""
        return f"postgresql://dfs@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str) -> None:
        """Run one statement as administrator, outside of a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type,unused-ignore]

    @contextlib.contextmanager
    def new_database(self, like: str = "template0") -> Iterator[str]:
        """Create a database, yield its address, and drop it whoever still uses it.

        Args:
            like: name of the one that it is a copy of, to which nobody is connected.
        """
        name = f"dfs_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE {like}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._binaries / program), "-D", str(self._data), *arguments]

    def _run_as(self) -> dict[str, Any]:
        return {**self._identity, "extra_groups": []} if self._identity else {}

    def _run_initdb(self) -> None:
        # A locale whose order is not that of code points, if there is one, would show a missing
        # COLLATE; C.UTF-8 and C are the ones that are always there.
        options = ["-U", "dfs", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
        result = subprocess.run(
            self._command("initdb", *options),
            cwd="/",
            capture_output=True,
            check=False,
            **self._run_as(),
        )
        if result.returncode != 0:
            raise RuntimeError(f"initdb failed: {result.stderr.decode(errors='replace')}")


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server, yield it when it answers, stop it and remove its data.

    Raises:
        As `PostgresServer` and its `start`.
    """
    # Not below pytest's tmp_path: that is closed to the other user whom a root run needs.
    directory = Path(tempfile.mkdtemp(prefix="dfs-postgres-"))
    try:
        server = PostgresServer(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()
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


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
