"""How much each caller may ask for at a time, whether it is honest or not.

A caller is a key; whoever has none is known by his address.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, current_app
from flask.globals import request_ctx

from dfs.api.auth import CALLER_KEY
from dfs.core.access import Caller
from dfs.core.address import network_of
from dfs.core.config import Config
from dfs.core.errors import TooManyRequestsError

if TYPE_CHECKING:
    from dfs.api.rates import Rates

log = structlog.get_logger()
_KEY = "dfs.traffic"
_TABLE = "rates"


def install_traffic(app: Flask, config: Config) -> None:
    """Have requests counted, after it is known who asks, and uploads."""
    app.extensions[_KEY] = Slots(config.uploads_per_caller_max)
    rates = _open_rates(config)
    if rates is not None:

        def count() -> None:
            environ = request_ctx.request.environ
            if CALLER_KEY in environ:  # of the routes that are open to everybody nothing is known
                rates.count(name_caller(environ))

        app.before_request(count)


def upload_slots() -> Slots:
    """Return the uploads that are in flight in this process."""
    slots: Slots = current_app.extensions[_KEY]
    return slots


def name_caller(environ: Mapping[str, Any]) -> str:
    """Return what a caller is counted by."""
    caller: Caller = environ[CALLER_KEY]
    return caller.key_id or network_of(environ.get("REMOTE_ADDR", ""))


class Slots:
    """Uploads in flight in this process, by caller.

    Args:
        count_max: of one caller; 0 for no limit.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, caller: str) -> None:
        """Begin an upload. Raises TooManyRequestsError."""
        with self._lock:
            taken = self._taken.get(caller, 0)
            if taken >= self._count_max > 0:
                raise TooManyRequestsError(
                    f"There may be {self._count_max} uploads at a time.", retry_after_s=1
                )
            self._taken[caller] = taken + 1

    def give_back(self, caller: str) -> None:
        """End an upload."""
        with self._lock:
            taken = self._taken.pop(caller) - 1
            if taken:
                self._taken[caller] = taken


def _open_rates(config: Config) -> Rates | None:
    if config.rate_per_caller is None:
        return None
    # Imported where it is needed: the library takes a while.
    from limits.storage import MemoryStorage, Storage  # noqa: PLC0415

    from dfs.api.counters import SharedCounters  # noqa: PLC0415
    from dfs.api.rates import Rates  # noqa: PLC0415

    storage: Storage
    try:
        config.run_path.mkdir(parents=True, exist_ok=True)
        storage = SharedCounters(config.run_path / _TABLE)
    except OSError as error:
        log.warning("rates_not_shared", error=str(error), meaning="Each process counts for itself.")
        storage = MemoryStorage()
    return Rates(config.rate_per_caller, storage)
