"""How Gunicorn serves dfs. Every value that may differ between nodes comes from the settings.

Gunicorn runs this file again on SIGHUP, so nothing here may rely on having run once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext, TLSVersion
from typing import Any

import structlog
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.systemd import sd_notify

from dfs.core.allocation import release_freed, share_arena
from dfs.core.config import load_config, settle_settings
from dfs.core.descriptors import raise_descriptor_limit
from dfs.core.errors import DfsError
from dfs.core.logging import configure_logging, library_formatter, style_of
from dfs.core.modes import keep_files_private
from dfs.core.signs import WEB_PID_NAME
from dfs.server.master import tame
from dfs.server.shares import Shares

GC_THRESHOLD = 5_000  # objects made and not freed until the collector looks at the young ones

settled = settle_settings(os.environ)
node_config = load_config({**os.environ, **settled})
raw_env = [f"{name}={value}" for name, value in settled.items()]
log_style = style_of(node_config)
configure_logging(log_style)

metrics_path = Path(node_config.run_path, "metrics")
# prometheus_client decides by this variable at its import whether processes share their counts. So
# what imports it is imported inside the functions below, never at the top.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_path)


class NodeLogger(Logger):  # type: ignore[misc] # gunicorn has no types
    """Gunicorn's log in the form of dfs's own."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(library_formatter(log_style))


bind = (
    f"[{node_config.host}]:{node_config.port}"
    if ":" in node_config.host
    else f"{node_config.host}:{node_config.port}"
)
workers = node_config.workers
threads = node_config.threads
worker_class = "dfs.server.worker.Worker"
worker_connections = node_config.connections_max
logger_class = NodeLogger
loglevel = "info"
accesslog = None

if node_config.tls_cert_path is not None:
    certfile, keyfile = str(node_config.tls_cert_path), str(node_config.tls_key_path)
    # Gunicorn would find out for each connection whether they are of any use.
    SSLContext(PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password="")

http_parser = "python"  # the other one accepts bare line feeds, which lets requests be smuggled
limit_request_line = 8190  # the most that Gunicorn allows
limit_request_fields = node_config.headers_max
limit_request_field_size = node_config.head_bytes_max
forwarder_headers = ""  # no client chooses the name of the application, not even on this machine
keepalive = 30
timeout = 60  # seconds without a sign of life of a worker's main loop; threads may take longer
graceful_timeout = 32  # seconds: 30 that requests in flight get at a stop, 2 to close files

control_socket_disable = not node_config.gunicorn_control_socket
if node_config.gunicorn_control_socket:
    control_socket = node_config.gunicorn_control_socket


def host_of(address: tuple[str, int] | str) -> str:
    """Return the host of an address that is listened on; a socket's path is one."""
    return address if isinstance(address, str) else address[0]


def ssl_context(config: Any, default_ssl_context_factory: Callable[[], SSLContext]) -> SSLContext:
    """Return Gunicorn's own context, without what is older than TLS 1.2."""
    context = default_ssl_context_factory()
    context.minimum_version = TLSVersion.TLSv1_2
    return context


def on_starting(server: Any) -> None:
    """Set what this process and its workers may take: little memory, all files, theirs alone.

    And how SIGUSR2 starts another master: by its path, as Gunicorn does it, a module that was run
    by `-m` finds its own directory in the place of the library's.
    """
    server.START_CTX["args"] = [sys.executable, "-m", "gunicorn", *sys.argv[1:]]
    share_arena()
    keep_files_private()
    raise_descriptor_limit()


def when_ready(server: Any) -> None:
    """Have the master go on, whatever it is asked for by signals."""
    tame(server, note_serving=note_main)


def pre_fork(server: Any, worker: Any) -> None:
    """Recover the node before the first worker exists; clients that connect meanwhile wait.

    Each worker gets its share of the connections.

    The mark is on the arbiter: this file's own names are new after SIGHUP. An upgrade by SIGUSR2
    has an arbiter of its own, which recovers under the node lock while the old workers serve.
    """
    if not hasattr(server, "dfs_shares"):
        server.dfs_shares = Shares()
    worker.share = server.dfs_shares.claim()
    if not hasattr(server, "dfs_recovered"):
        server.dfs_recovered = recover_before_fork(server)
    worker.recovered = server.dfs_recovered


def recover_before_fork(server: Any) -> Any:
    """Recover the node; return what was done. Raises HaltServer."""
    # The application's modules, too: imported once, before the fork, they cost each worker nothing.
    # So SIGHUP brings new settings but never new code; that takes a restart or SIGUSR2.
    import dfs.app  # noqa: F401, PLC0415
    from dfs.telemetry.files import remove_dead_files  # noqa: PLC0415
    from dfs.telemetry.tracing import load_tracing  # noqa: PLC0415
    from dfs.wiring import recover_node  # noqa: PLC0415

    load_tracing()
    if "GUNICORN_PID" not in os.environ:  # else the workers of the old arbiter still count
        remove_dead_files(metrics_path)
    with suppress(OSError):  # without it each worker counts for itself
        metrics_path.mkdir(parents=True, exist_ok=True)
    try:
        recovered = recover_node(node_config, hosts=list(map(host_of, server.cfg.address)))
    except DfsError as error:
        structlog.get_logger().error("recovery_failed", code=error.code, error=str(error))
        raise HaltServer(str(error), exit_status=1) from error
    # A collection writes to every object that it looks at, and thereby copies the page into the
    # process: those of the workers shall not look at what they share. Nor shall each of them keep
    # what modules have freed since they were imported.
    gc.collect()
    gc.freeze()
    release_freed()
    return recovered


def post_fork(server: Any, worker: Any) -> None:
    """Make sure that a full disk cannot kill the worker for what it counts."""
    from dfs.telemetry.files import reserve_metrics_files  # noqa: PLC0415

    reserve_metrics_files()
    worker.is_outgoing = bool(server.reexec_pid)  # of a master that another is to replace


def post_worker_init(worker: Any) -> None:
    """Open the services before the worker accepts its first request, not during it.

    If that fails now (the database restarts, the disk is full), the next request tries again; until
    then the answers are 503. An error raised here would make Gunicorn stop the whole node.
    """
    node = worker.wsgi.extensions["dfs"]
    node.crew = worker.crew
    node.recovered = worker.recovered
    # The master starts another, which recovers the node: in good order, what is in flight ends.
    node.on_outlived = partial(os.kill, os.getpid(), signal.SIGTERM)
    try:
        _ = node.services
    except DfsError as error:
        structlog.get_logger().error("services_unopened", code=error.code, error=str(error))
    else:
        if not worker.is_outgoing:
            note = note_main if "GUNICORN_PID" in os.environ else note_serving
            note(worker.ppid)
    # What lives as long as the process is never looked at again, and the rest not every few
    # requests: collecting took a tenth of the time of small uploads.
    gc.collect()
    gc.freeze()
    release_freed()
    gc.set_threshold(GC_THRESHOLD)


def note_main(master: int) -> None:
    """Tell systemd, too, that this is the master of which workers serve."""
    sd_notify(f"MAINPID={master}", structlog.get_logger())
    note_serving(master)


def note_serving(master: int) -> None:
    """Tell whoever looks (`scripts.upgrade`) that a worker of this master serves."""
    path = node_config.run_path / WEB_PID_NAME
    with suppress(OSError):
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(f"{master}\n")
        draft.rename(path)


def worker_exit(server: Any, worker: Any) -> None:
    """Close what the worker opened, unless threads still work with it, which the end cuts off."""
    application = getattr(worker, "wsgi", None)
    if application is not None and worker.is_drained:
        application.extensions["dfs"].close()
        application.extensions["dfs.tracing"].close()


def child_exit(server: Any, worker: Any) -> None:
    """Put what the worker has counted where it takes no room; forget what only the living have."""
    from dfs.telemetry.ended import fold_ended  # noqa: PLC0415

    server.dfs_shares.release(worker.share)
    fold_ended(metrics_path)
