"""The services of a process as the application holds them: opened when they are first needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dfs.core.config import Config
from dfs.core.errors import DfsError, WalReadOnlyError
from dfs.services.crew import Crew
from dfs.services.hooks import NO_HOOKS, Hooks
from dfs.services.recovery import Recovered
from dfs.wiring import Services, open_services

REOPEN_PAUSE_S = 1.0
LOOK_INTERVAL_S = 0.05
"""So often a process that serves looks whether its log is still the one of the node. Whoever
restores a log that was lost needs longer until it tells anybody of something new."""


def stay() -> None:
    """Go on refusing; the process has no supervisor."""


class Node:
    """The services of this process, opened when they are first needed.

    Importing the application must open nothing, and what is open must not be carried over a fork.

    Attributes:
        crew: the threads that serve, see `open_services`.
        recovered: what was done at the last start of the node, if another process did it.
        on_outlived: called when the log was removed or replaced under this process, which from then
            on refuses everything; to end it, so that its supervisor starts it anew.
    """

    def __init__(self, config: Config, *, hooks: Hooks = NO_HOOKS) -> None:
        self.config = config
        self._hooks = hooks
        self._services: Services | None = None
        self._lock = threading.Lock()
        self._failure: DfsError | None = None
        self._retry_at_s = 0.0
        self._look_at_s = 0.0
        self.crew: Crew | None = None
        self.recovered: Recovered | None = None
        self.on_outlived: Callable[[], None] = stay

    @property
    def services(self) -> Services:
        """The services; opened, and the node recovered, at the first call.

        Raises:
            WalReadOnlyError: this process has outlived its log: the index that it knows is of
                another life than what others may have written since.
            DfsError: the node cannot be opened.
        """
        if self._services is None:
            with self._lock:
                if self._services is None:
                    self._services = self._open()
        services = self._services
        if time.monotonic() >= self._look_at_s:
            self._require_log(services)
        return services

    def _require_log(self, services: Services) -> None:
        try:
            services.log.control.require_in_place()
        except WalReadOnlyError:
            self.on_outlived()
            raise
        self._look_at_s = time.monotonic() + LOOK_INTERVAL_S

    def _open(self) -> Services:
        """Open the services, unless that failed just now: requests must not queue up to try."""
        if self._failure is not None and time.monotonic() < self._retry_at_s:
            raise self._failure
        try:
            return open_services(self.config, hooks=self._hooks, crew=self.crew)
        except DfsError as error:
            self._failure = error
            self._retry_at_s = time.monotonic() + REOPEN_PAUSE_S
            raise

    def close(self) -> None:
        """Close what was opened. Safe to call twice; the next use opens it again."""
        with self._lock:
            services, self._services = self._services, None
        if services is not None:
            services.close()
