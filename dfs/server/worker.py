"""Gunicorn's threaded worker, made safe against clients that take their time.

A request has a thread only while its head is here and something is to be done for it:

- connections that are kept open wait for their next request, and the threads wait for them
  (`arrivals`); heads that arrive in pieces, and connections that are closed, wait in the poller of
  the main thread; all for a bounded time;
- a thread that a slow client keeps waiting while its body comes, or while it reads an answer, is
  lent out: another takes its place (`threads`), until the client has run out of patience (`wire`).

What Gunicorn itself refuses is answered with a problem, as everything else is.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from gunicorn.http.errors import ParseException
from gunicorn.http.wsgi import create
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from dfs.api.parking import PARKING_KEY, Parked
from dfs.api.responses import CLOSING_KEY
from dfs.core.config import load_config
from dfs.core.ulid import UlidFactory
from dfs.server.answering import JoiningResponse
from dfs.server.arrivals import Arrivals
from dfs.server.connection import Connection
from dfs.server.refusals import refuse, refuse_late_head
from dfs.server.shares import Shares
from dfs.server.threads import ServingThreads
from dfs.server.waiting import ServingRoom, WaitingRoom
from dfs.server.wire import HOLD_S, Terms, limit_waits

log = structlog.get_logger()

YIELD_S = 0.005
"""How long a new connection is left to a worker that has fewer."""
LINGER_S = 2.0
"""How long a client may take to hear that its connection is closed."""
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
        let_go: called in a thread that will not serve another request, or not for long.
    """

    alive: bool
    nr_conns: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = load_config()
        # As plain attributes: Gunicorn looks some twenty of them up by name for each request.
        self.cfg.__dict__.update({name: item.get() for name, item in self.cfg.settings.items()})
        self.share = Shares().claim()
        self.let_go: Callable[[], None] = lambda: None
        self._slow_clients_max = config.slow_clients_max
        self._has_access_log = config.access_log
        self._head_bytes_max = config.head_bytes_max
        self._head_timeout_s = config.head_timeout_s
        self._terms = Terms(
            grace_s=config.client_grace_s, bytes_per_s_min=config.client_bytes_per_s_min
        )
        self._gather_s = config.commit_gather_us / 1e6
        self._ulids = UlidFactory()

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
            let_go=self._let_go,
        )

    def run(self) -> None:
        """Serve until told to stop."""
        for listener in self.sockets:
            limit_waits(listener, HOLD_S)
        room = partial(WaitingRoom, self.poller)
        self._heads = room(timeout_s=self._head_timeout_s, on_readable=self._collect)
        self._idle = ServingRoom(self._arrivals, timeout_s=self.cfg.keepalive)
        self._ending = room(timeout_s=LINGER_S, on_readable=self._drain)
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Take in a new connection; one of those that only wait has to go if there are too many."""
        is_left = self.share.is_ahead()
        if is_left:
            time.sleep(YIELD_S)
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                self._make_room()
            elif error.errno not in _NO_CONNECTION:
                raise
            return
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
        self._arrivals.add(connection)
        self._heads.add(connection)
        if self.nr_conns >= self.worker_connections:
            self._make_room()

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
            self.alive = False
        if not self.alive:
            response.force_close()
        body = self.wsgi(environ, response.start_response)
        if isinstance(body, Parked):
            if not connection.has_body_left():
                left = Left(connection, req, response, body)
                body.when_ready(partial(self._go_on, left))
                return _PARKED
            body = body.wait()  # who answers for others waits for no body, which may never come
        return self._send(response, body)

    def _send(self, response: JoiningResponse, body: Any) -> bool:
        """Send an answer. Returns whether the connection can be kept; raises what it meets."""
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
            kept = self._send(left.response, left.parked.go_on())
        except OSError as error:
            self.log.debug("Ignored a client that has gone: %s", error)
        except Exception as error:
            self.handle_error(left.request, connection.sock, connection.client, error)
        connection.is_kept = kept
        if connection.sock.has_unsent():
            self._idle.push(connection)
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

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections that have waited for long enough, or all of them."""
        limit_s = 0.0 if force else None if self.alive else STOP_KEEPALIVE_LINGER
        for connection in self._heads.pop_expired(timeout_s=limit_s):
            if connection.has_begun:
                with suppress(OSError):
                    refuse_late_head(
                        connection.sock,
                        request_id=self._ulids.make(),
                        told_of=self._find_told_of(connection.client),
                    )
                self._end(connection)
            else:
                self._close(connection)
        for connection in self._idle.pop_expired(timeout_s=limit_s):
            self._close(connection)
        for connection in self._ending.pop_expired(timeout_s=0.0 if force else None):
            self._close(connection)

    def _let_go(self) -> None:
        self.let_go()  # which is set after the threads have been made

    def _serve(self, connection: Connection) -> None:
        """Serve a request, and see to what becomes of the connection; in a thread."""
        if not self._idle.remove(connection):
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
        if not kept:
            self.method_queue.defer(self._finish, connection, kept)
        elif connection.has_more():
            self._idle.push(connection)
        else:
            self._idle.add(connection)

    def _finish(self, connection: Connection, kept: bool | None) -> None:
        if kept is None:
            self._heads.add(connection)
        else:
            self._end(connection)

    def _collect(self, connection: Connection) -> None:
        """Go on with a head that has begun; a thread does the rest, and whatever is wrong."""
        if connection.has_begun:
            with suppress(OSError, ParseException):
                if not connection.collect():
                    return
        self._heads.remove(connection)
        self._idle.push(connection)

    def _end(self, connection: Connection) -> None:
        """Close a connection so that the client gets what was sent to it."""
        if connection.end():
            self._ending.add(connection)
        else:
            self._close(connection)

    def _drain(self, connection: Connection) -> None:
        if not connection.drain():
            self._ending.remove(connection)
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._count(-1)
        self._arrivals.remove(connection)
        connection.close()

    def _count(self, change: int) -> None:
        self.nr_conns += change
        if self._accepting:
            self.share.note(self.nr_conns)

    def _make_room(self) -> None:
        """Close the connection that has done nothing for longest."""
        for room in (self._ending, self._heads, self._idle):
            connection = room.pop_oldest()
            if connection is not None:
                self._close(connection)
                return
