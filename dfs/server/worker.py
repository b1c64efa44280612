"""Gunicorn's threaded worker, made safe against clients that take their time.

A request has a thread only while its head is here and something is to be done for it:

- connections that are kept open wait for their next request, and the threads wait for them
  (`arrivals`); heads that arrive in pieces, and connections that are closed, wait in the poller of
  the main thread; all for a bounded time;
- a thread that a slow client keeps waiting while its body comes, or while it reads an answer, is
  lent out: another takes its place (`threads`), until the client has run out of patience (`wire`).

What Gunicorn itself refuses is answered with a problem, as everything else is.

A worker that is told to stop, which others may outlive, loses no request: it takes in no more
connections, answers all that has come, says with the last answer on each connection that it is the
last, and closes those on which nothing has come (`_drain`, `lobby`).
"""

from __future__ import annotations

import errno
import selectors
import signal
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from gunicorn.http.errors import ParseException
from gunicorn.http.wsgi import create
from gunicorn.workers.gthread import ThreadWorker

from dfs.api.parking import PARKING_KEY, Parked
from dfs.api.responses import CLOSING_KEY
from dfs.core.config import load_config
from dfs.core.ulid import UlidFactory
from dfs.server.answering import JoiningResponse
from dfs.server.arrivals import Arrivals
from dfs.server.connection import Connection
from dfs.server.lobby import Lobby
from dfs.server.master import STOP_SIGNALS
from dfs.server.refusals import refuse, refuse_late_head
from dfs.server.shares import Shares
from dfs.server.threads import ServingThreads
from dfs.server.wire import HOLD_S, Terms, limit_waits

log = structlog.get_logger()

YIELD_S = 0.005
"""How long a new connection is left to a worker that has fewer."""
LOOK_S, STOPPING_LOOK_S = 1.0, 0.1
"""How long the main thread waits for something to happen until it looks at the time."""
CLOSING_S = 2.0
"""Of the time that Gunicorn gives a worker to stop, what is left to close files in."""
_PARKED: Any = object()
"""What becomes of a connection is not known yet: its request was left."""
_NO_CONNECTION = (errno.EAGAIN, errno.ECONNABORTED)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Left:
    """A request that was left until the application can go on with it."""

    connection: Connection
    request: Any
    response: JoiningResponse
    parked: Parked


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """One process that serves.

    Attributes:
        crew: says which of its threads runs.
        share: of the connections of the node.
        is_drained: it was stopped, and nothing that it does is under way any more.
    """

    alive: bool
    nr_conns: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = load_config()
        # As plain attributes: Gunicorn looks some twenty of them up by name for each request.
        self.cfg.__dict__.update({name: item.get() for name, item in self.cfg.settings.items()})
        self.share = Shares().claim()
        self.is_drained = False
        self._slow_clients_max = config.slow_clients_max
        self._has_access_log = config.access_log
        self._head_bytes_max = config.head_bytes_max
        self._head_timeout_s = config.head_timeout_s
        self._terms = Terms(
            grace_s=config.client_grace_s, bytes_per_s_min=config.client_bytes_per_s_min
        )
        self._gather_s = config.commit_gather_us / 1e6
        self._ulids = UlidFactory()

    def init_signals(self) -> None:
        """Take over the signals, and get those that have come since the fork."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def get_thread_pool(self) -> ServingThreads[Connection]:
        """Return the threads."""
        self._arrivals = Arrivals(gather_s=self._gather_s)
        self.crew = self._arrivals.crew
        threading.Thread(target=self.crew.watch, name="watch", daemon=True).start()
        return ServingThreads(
            self._arrivals,
            crew=self.crew,
            serve=self._serve,
            count=self.cfg.threads,
            lent_max=self._slow_clients_max,
        )

    def run(self) -> None:
        """Serve until told to stop, and then what has come until then."""
        for listener in self.sockets:
            limit_waits(listener, HOLD_S)
        self._lobby = Lobby(
            self.poller,
            self._arrivals,
            head_timeout_s=self._head_timeout_s,
            idle_timeout_s=self.cfg.keepalive,
            refuse_late=self._refuse_late,
            on_closed=partial(self._count, -1),
        )
        queue = self.method_queue
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        while self.alive and self.is_parent_alive():
            self.set_accept_enabled(self.nr_conns < self.worker_connections)
            self._look(LOOK_S)
        self.alive = False
        self._drain()
        self.tpool.shutdown()

    def _drain(self) -> None:
        """Answer all that has come, and close every connection.

        Others may go on listening to the same sockets. Whoever is the last to close one has taken
        in before who had connected to it.
        """
        until_s = time.monotonic() + self.cfg.graceful_timeout - CLOSING_S
        self.set_accept_enabled(False)
        for listener in self.sockets:
            left = self.cfg.backlog
            while left and self.accept(listener):
                left -= 1
            listener.close()
        while self.nr_conns and time.monotonic() < until_s:
            self._look(STOPPING_LOOK_S)
        self.is_drained = not self.nr_conns

    def _look(self, timeout_s: float) -> None:
        """Wait for what happens next, and see to it and to those who have waited too long."""
        self.notify()
        self.wait_for_and_dispatch_events(timeout_s)
        self._lobby.close_expired(is_stopping=not self.alive)

    def accept(self, listener: socket.socket) -> bool:
        """Take in a new connection; one of those that only wait has to go if there are too many.

        Returns:
            Whether there was one.
        """
        is_left = self.share.is_ahead()
        if is_left:
            time.sleep(YIELD_S)
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                self._lobby.make_room()
            elif error.errno not in _NO_CONNECTION:
                raise
            return False
        if is_left:
            self.share.insist()
        self._count(1)
        connection = Connection(
            self.cfg,
            sock,
            client,
            listener.getsockname(),
            terms=self._terms,
            threads=self.tpool,
            head_bytes_max=self._head_bytes_max,
        )
        self._lobby.enter(connection)
        if self.nr_conns >= self.worker_connections:
            self._lobby.make_room()
        return True

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin, or cease, to take in connections."""
        super().set_accept_enabled(enabled)
        if enabled:
            self.share.note(self.nr_conns)
        else:
            self.share.close()

    def handle(self, connection: Connection) -> bool | None:
        """Serve a request; in a thread. Returns whether the connection is kept; None: no head."""
        try:
            if not connection.collect():
                return None
        except ParseException as error:
            self.handle_error(None, connection.sock, connection.client, error)
            return False
        except OSError:
            return False
        connection.sock.begin()
        kept: bool = super().handle(connection)
        return kept

    def handle_request(self, req: Any, connection: Connection) -> Any:
        """Have the application answer a request.

        Returns:
            Whether the connection is kept; `_PARKED` if that is not known yet.
        """
        response, environ = create(
            req,
            connection.sock,
            connection.client,
            connection.server,
            self.cfg,
            response_class=JoiningResponse,
        )
        environ["wsgi.multithread"] = True
        environ[PARKING_KEY] = True
        environ[CLOSING_KEY] = response.force_close
        if isinstance(connection.server, str):  # a socket's path: Gunicorn puts the client's Host
            environ["SERVER_NAME"] = connection.server
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.handle_exit(signal.SIGTERM, None)
        body = self.wsgi(environ, response.start_response)
        if isinstance(body, Parked):
            if not connection.has_body_left():
                left = Left(connection, req, response, body)
                body.when_ready(partial(self._go_on, left))
                return _PARKED
            body = body.wait()  # who answers for others waits for no body, which may never come
        return self._send(connection, response, body)

    def _send(self, connection: Connection, response: JoiningResponse, body: Any) -> bool:
        """Send an answer. Returns whether the connection can be kept; raises what it meets."""
        if (not self.alive and not connection.has_more()) or connection.waits_to_go_on():
            response.force_close()
        try:
            for piece in body:
                response.write(piece)
            response.close()
        except Exception as error:
            if isinstance(error, OSError) or not response.headers_sent:
                raise
            log.error("answer_broken_off", request_id=response.request_id(), exc_info=error)
            return False
        finally:
            if hasattr(body, "close"):
                body.close()
        return not response.should_close()

    def _keepalive_after(self, connection: Connection, kept: Any) -> Any:
        return kept if kept is _PARKED else super()._keepalive_after(connection, kept)

    def _go_on(self, left: Left) -> None:
        """Answer a request that was left, without waiting for the client."""
        connection = left.connection
        connection.sock.hurry()
        kept = False
        try:
            kept = self._send(connection, left.response, left.parked.go_on())
        except OSError as error:
            self.log.debug("Ignored a client that has gone: %s", error)
        except Exception as error:
            self.handle_error(left.request, connection.sock, connection.client, error)
        connection.is_kept = kept
        if connection.sock.has_unsent():
            self._lobby.push(connection)
        else:
            self._settle(connection, kept)

    def _catch_up(self, connection: Connection) -> bool:
        """Send what could not be sent in a hurry. Returns whether the connection is kept."""
        connection.sock.begin()
        try:
            connection.sock.flush()
        except OSError:
            return False
        return connection.is_kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what went wrong outside of the application."""
        refuse(client, exc, request_id=self._ulids.make(), told_of=self._find_told_of(addr))

    def _find_told_of(self, addr: Any) -> str | None:
        """Return the address that the access log names; None if there is none."""
        if not self._has_access_log:
            return None
        return str(addr[0]) if isinstance(addr, tuple) else str(addr)

    def _refuse_late(self, connection: Connection) -> None:
        """Answer a head that does not come. Raises OSError."""
        told_of = self._find_told_of(connection.client)
        refuse_late_head(connection.sock, request_id=self._ulids.make(), told_of=told_of)

    def _serve(self, connection: Connection) -> None:
        """Serve a request, and see to what becomes of the connection; in a thread."""
        if not self._lobby.take(connection):
            return
        kept: bool | None = False
        try:
            if connection.sock.has_unsent():
                kept = self._catch_up(connection)
            else:
                kept = self.handle(connection)
        finally:
            if kept is not _PARKED:
                self._settle(connection, kept)

    def _settle(self, connection: Connection, kept: bool | None) -> None:
        """See to what becomes of a connection after a request."""
        if kept:
            self._lobby.keep(connection)
        else:
            self.method_queue.defer(self._finish, connection, kept)

    def _finish(self, connection: Connection, kept: bool | None) -> None:
        if kept is None:
            self._lobby.wait_for_head(connection)
        else:
            self._lobby.end(connection)

    def _count(self, change: int) -> None:
        self.nr_conns += change
        if self._accepting:
            self.share.note(self.nr_conns)
