"""Gunicorn's master, made to outlive what an operator may do to it by signals.

SIGHUP and SIGUSR2 change nothing if what they ask for cannot be done, and keep nobody waiting who
asks for something else meanwhile: a stop takes as long as one drain, whatever was asked before it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import structlog

from dfs.core.parent import end_with_parent

log = structlog.get_logger()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class _ReloadedError(Exception):
    """New workers serve, and the old ones were told to end."""


def tame(server: Any, *, note_serving: Callable[[int], None]) -> None:
    """Have a master act on its signals as this module says.

    Args:
        server: Gunicorn's arbiter.
        note_serving: tells others the process id of the master of which workers serve.
    """
    server.app.reload = partial(_read_settings, server, server.app.reload)
    server.handle_hup = partial(_reload_if_sound, server, server.handle_hup)
    server.spawn_worker = partial(_spawn, server.spawn_worker)
    server.reexec = partial(_start_successor, server, server.reexec)
    server.reap_workers = partial(_reap, server, server.reap_workers, note_serving)
    server.maybe_promote_master = partial(_promote, server, server.maybe_promote_master)


def _read_settings(server: Any, read: Callable[[], None]) -> None:
    """Read the new settings. Raises SystemExit if they ask for another address.

    That one may be taken, or one that strangers reach, which only a start looks into.
    """
    read()
    if server.app.cfg.address != server.cfg.address:
        log.error("address_kept", hint="PORT and DFS_HOST change by a stop and a start only.")
        raise SystemExit(1)


def _reload_if_sound(server: Any, reload: Callable[[], None]) -> None:
    """Do what SIGHUP asks for, unless the new settings are wrong: then all stays as it is.

    Gunicorn would wait until the old workers have ended, and see to no other signal until then.
    """
    config, of_application, reap = server.cfg, server.app.cfg, server.reap_workers
    server.reap_workers = _wait_no_longer
    try:
        reload()
    except _ReloadedError:
        pass
    except SystemExit:
        if server.cfg is not config:  # it got further, or this is a new worker that ends
            raise
        server.app.cfg = of_application
        os.environ.update(config.env)
        log.error("reload_refused", hint="The node goes on as it was.")
    finally:
        server.reap_workers = reap


def _wait_no_longer() -> NoReturn:
    raise _ReloadedError


def _spawn(spawn: Callable[[], int]) -> int:
    """Start a worker that is told to end, however early that comes.

    Until it has handlers of its own it would put a signal on the master's list, where nobody looks.
    It unblocks them then (`Worker.init_signals`).
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return spawn()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _start_successor(server: Any, start: Callable[[], None]) -> None:
    """Do what SIGUSR2 asks for, in a child; one that cannot begin ends, and touches nothing.

    Gunicorn would have it stop the workers, whom it takes for its own, and the master with it if
    there is no room for a child.
    """
    server.maybe_promote_master()  # the old master may have ended since that was looked at
    try:
        start()
    except OSError as error:
        log.error("successor_not_started", error=str(error), hint="The node goes on as it was.")
        if os.getpid() != server.pid:
            os._exit(1)


def _reap(server: Any, reap: Callable[[], None], note_serving: Callable[[int], None]) -> None:
    """Look which children have ended; without a successor this master is the one that serves."""
    successor = server.reexec_pid
    reap()
    if successor and not server.reexec_pid:
        note_serving(server.pid)


def _promote(server: Any, promote_if_alone: Callable[[], None]) -> None:
    """Take the place of the old master, if it has ended, and end with whoever supervised it."""
    old = server.master_pid
    promote_if_alone()
    if old != server.master_pid:
        end_with_parent()
