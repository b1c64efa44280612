"""The API keys as one process knows them: at most half a second old.

So a request costs no question to the index in the common case, and a key that was revoked, by
whichever process, is good for nothing half a second later.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from dfs.core.access import Key
from dfs.core.clock import now_ms
from dfs.core.errors import DfsError
from dfs.core.signing import is_key_id
from dfs.db.repository import IndexRepository
from dfs.services.ledger import Ledger

AGE_S_MAX = 0.5
NOTE_USE_EVERY_MS = 60_000

logger = structlog.get_logger()


def has_secret(key: Key, secret_hash: bytes) -> bool:
    """Tell whether a key has the secret of this hash.

    How long it takes says nothing of how much of the secret is right.
    """
    return hmac.compare_digest(secret_hash, key.secret_hash)


class Keyring:
    """Knows keys by their ids and secrets.

    Args:
        ledger: where it is noted when keys were last used.
        threads: runs that, so that no request waits for the node's lock.
    """

    def __init__(
        self,
        *,
        index: IndexRepository,
        ledger: Ledger,
        threads: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._threads = threads
        self._clock = clock
        self._known: dict[str, tuple[float, Key]] = {}
        self._is_empty = False
        self._is_empty_until_s = 0.0
        self._noted_ms: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_empty(self) -> bool:
        """Tell whether there is no key at all, not even one that has expired.

        Raises:
            MetadataError: the index does not answer.
        """
        moment_s = self._clock()
        if moment_s >= self._is_empty_until_s:
            self._is_empty = not self._index.has_keys()
            self._is_empty_until_s = moment_s + AGE_S_MAX
        return self._is_empty

    def find(self, key_id: str) -> Key | None:
        """Return the key of that id if it is good for anything. Raises MetadataError."""
        moment_s = self._clock()
        known = self._known.get(key_id)
        if known is None or moment_s >= known[0]:
            key = self._index.find_key(key_id) if is_key_id(key_id) else None
            if key is None:
                self._known.pop(key_id, None)
                return None
            known = self._known[key_id] = (moment_s + AGE_S_MAX, key)
        return None if known[1].has_expired(now_ms()) else known[1]

    def verify(self, key_id: str, secret_hash: bytes) -> Key | None:
        """Return the key of that id if its secret has this hash. Raises MetadataError."""
        key = self.find(key_id)
        return key if key is not None and has_secret(key, secret_hash) else None

    def note_use(self, key: Key) -> None:
        """Note, once a minute, that a key is in use: as well as may be, and never in the way."""
        moment_ms = now_ms()
        if moment_ms - self._noted_ms.get(key.id, 0) < NOTE_USE_EVERY_MS:
            return
        with self._lock:
            if moment_ms - self._noted_ms.get(key.id, 0) < NOTE_USE_EVERY_MS:
                return
            self._noted_ms[key.id] = moment_ms
        self._threads.submit(self._write_use, key.id, moment_ms)

    def _write_use(self, key_id: str, at_ms: int) -> None:
        try:
            with self._ledger.begin() as index:
                index.keys.note_use(key_id, at_ms)
        except DfsError as error:
            logger.warning("key_use_not_noted", key_id=key_id, error=str(error))
