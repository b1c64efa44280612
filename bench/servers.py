"""Starts and stops the servers that are measured: a node of dfs, an empty Flask app, nginx.

Each gets a free port of the loopback and a directory of its own on the disk under test.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from scripts.embedded_redis import find_server, start_redis
from scripts.supervisor import stop_children

ROOT = Path(__file__).parents[1]
WORKERS, THREADS = 2, 16
HOST = "127.0.0.1"
EMPTY_FLASK = "bench.empty_app:create_app()"
EMPTY_WSGI = "bench.empty_app:answer"
BARE_STORE = "bench.bare_app:create_app()"
OWN_WORKER = "dfs.server.worker.Worker"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
POLL_INTERVAL_S = 0.005
SYNC_CALLS = "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "nginx"
"""Debian puts it where only root's PATH leads."""
_INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        start_s: from the start of its first process to its first answer.
    """

    process: subprocess.Popen[bytes]
    port: int
    start_s: float

    @property
    def url(self) -> str:
        """Its address without a path."""
        return f"http://{HOST}:{self.port}"


def find_free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def node_python() -> str:
    """Return the Python that runs nodes: one that has what a node needs and nothing else.

    What the tests need besides is imported by libraries where it is there, and takes memory. It is
    our own without `make`, which names that Python in BENCH_NODE_PYTHON.
    """
    return os.environ.get("BENCH_NODE_PYTHON", sys.executable)


def base_environ() -> dict[str, str]:
    """Return what every program may know of our environment: no settings of ours."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def traced(command: Sequence[str], sync_trace: Path | None) -> list[str]:
    """Return the command under strace, or as it is.

    Args:
        sync_trace: file for strace to write a line to for each sync that any process makes.
    """
    if sync_trace is None:
        return list(command)
    tracer = ["strace", "-DD", "-f", "--seccomp-bpf", "-qq", "-e", SYNC_CALLS, "-e", "signal=none"]
    return [*tracer, "-o", str(sync_trace), *command]


def node_environ(directory: Path, port: int = 0) -> dict[str, str]:
    """Return the settings of a node whose data is in `directory`, and nothing else of ours."""
    return {
        **base_environ(),
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "DFS_HOST": HOST,
        "WEB_CONCURRENCY": str(WORKERS),
        "DFS_THREADS": str(THREADS),
        "STORAGE_PATH": str(directory / "primary"),
        "WAL_PATH": str(directory / "wal"),
        "DATABASE_URL": f"sqlite:///{directory / 'dfs.db'}",
        "DFS_RUN_PATH": str(directory / "run"),
        "REPLICA1_PATH": "",
        "REPLICA2_PATH": "",
    }


@contextlib.contextmanager
def run_node(
    directory: Path, *, settings: Mapping[str, str] | None = None, sync_trace: Path | None = None
) -> Iterator[Server]:
    """Run a node of dfs with its data in `directory`, new or from an earlier run.

    Args:
        settings: further environment variables.
        sync_trace: file for strace to write a line to for each sync that any process makes.

    Raises:
        BenchError: it does not start.
    """
    port = find_free_port()
    node = [*_gunicorn(), "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"]
    command = traced(node, sync_trace)
    environ = {**node_environ(directory, port), **(settings or {})}
    with run(command, environ=environ, directory=directory, port=port, path="/ready") as server:
        yield server


@contextlib.contextmanager
def run_whole(directory: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run all that `make run` starts: web server, worker, queue, and the process that started them.

    It copies to two replicas, as it does by default.

    Args:
        settings: further environment variables.
    """
    port = find_free_port()
    environ = {
        **node_environ(directory, port),
        **{f"REPLICA{number}_PATH": str(directory / f"replica{number}") for number in (1, 2)},
        **(settings or {}),
    }
    command = [node_python(), "-m", "scripts.run"]
    with run(command, environ=environ, directory=directory, port=port, path="/ready") as server:
        yield server


@contextlib.contextmanager
def run_queue(directory: Path) -> Iterator[str]:
    """Run the server of the queue, with its files in `directory`. Yields its address."""
    child, url = start_redis(find_server(), directory=directory / "queue")
    try:
        yield url
    finally:
        stop_children([child])


@contextlib.contextmanager
def run_worker(directory: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker process of the node in `directory`.

    Args:
        settings: further environment variables: those of the node.
    """
    with (directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [node_python(), "-m", "workers.run"],
            env={**node_environ(directory), **settings},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


@contextlib.contextmanager
def run_empty(
    directory: Path,
    *,
    application: str = EMPTY_FLASK,
    worker_class: str = "gthread",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run an empty application on the Gunicorn settings of dfs.

    Args:
        application: the one of Flask, one without any framework, or one that only stores.
        worker_class: Gunicorn's own threads, or those of dfs.
        settings: further environment variables.
    """
    port = find_free_port()
    options = ["-c", "python:bench.empty_gunicorn", "--worker-class", worker_class]
    command = [*_gunicorn(), *options, application]
    environ = {**node_environ(directory, port), **(settings or {})}
    with run(command, environ=environ, directory=directory, port=port, path="/") as server:
        yield server


@contextlib.contextmanager
def run_nginx(directory: Path) -> Iterator[Server]:
    """Run nginx, serving the files of `directory` with sendfile, and taking PUTs below `/put/`.

    Raises:
        BenchError: this nginx was built without WebDAV, or does not start.
    """
    build = subprocess.run([NGINX, "-V"], capture_output=True, text=True, check=False)
    if "http_dav_module" not in build.stderr:
        raise BenchError("nginx has no WebDAV. On Debian and Ubuntu: apt install nginx-core")
    (directory / "put").mkdir(exist_ok=True)
    port = find_free_port()
    http_block = (
        "access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;"
        f"server {{ listen {HOST}:{port}; root {directory}; location = /ready {{ return 200; }}"
        "location /put/ { dav_methods PUT; client_max_body_size 0; } }"
    )
    with run_nginx_with(http_block, directory=directory, port=port) as server:
        yield server


@contextlib.contextmanager
def run_nginx_with(
    http_block: str, *, directory: Path, port: int, user: str = "root"
) -> Iterator[Server]:
    """Run nginx with a configuration of its own.

    Args:
        http_block: what stands in `http { }`; something in it listens on `port`.
        directory: the server's own files go to `nginx` in there.
        user: that its workers run as, if we are root.
    """
    scratch = directory / "nginx"
    scratch.mkdir(exist_ok=True)
    temporary = "".join(
        f"{name}_temp_path {scratch / name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = scratch / "nginx.conf"
    of_user = f"user {user};" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"{of_user} daemon off; worker_processes {WORKERS}; pid {scratch / 'pid'};"
        f"error_log {scratch / 'error.log'}; events {{ worker_connections 1024; }}"
        f"http {{ {temporary} {http_block} }}\n"
    )
    command = [NGINX, "-e", str(scratch / "error.log"), "-c", str(configuration)]
    environ = base_environ()
    with run(command, environ=environ, directory=directory, port=port, path="/ready") as server:
        yield server


@contextlib.contextmanager
def run(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    directory: Path,
    port: int,
    path: str | None,
) -> Iterator[Server]:
    """Run a server in a session of its own; its output goes to a log in `directory`.

    Args:
        path: answers 200 when the server is ready; None: it is when it takes a connection.

    Raises:
        BenchError: it does not start.
    """
    log_path = directory / f"{Path(command[-1]).name.partition(':')[0]}.log"
    started = time.perf_counter()
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        server = Server(process, port, 0.0)
        _wait_until_ready(server, path, log_path)
        yield Server(process, port, time.perf_counter() - started)
    finally:
        _stop(process)


def get(server: Server, path: str) -> tuple[int, bytes]:
    """Return status and body of one answer. Raises OSError when there is none."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=START_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _gunicorn() -> list[str]:
    return [node_python(), "-m", "gunicorn"]


def _wait_until_ready(server: Server, path: str | None, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if path is None:
                socket.create_connection((HOST, server.port), START_TIMEOUT_S).close()
                return
            if get(server, path)[0] == 200:
                return
        time.sleep(POLL_INTERVAL_S)
    tail = log_path.read_text(errors="replace")[-2000:]
    raise BenchError(f"{server.process.args!r} does not start:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server as its operator would, and let nothing of its session survive."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
