"""API keys: make, list, revoke. Each change is a record of the log, like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from dfs.core.access import ALL_SCOPES, NODE_ID, Caller, Key, Scope
from dfs.core.clock import now_ms
from dfs.core.errors import (
    InvalidRequestError,
    LastKeyError,
    NoSuchKeyError,
    QuorumError,
    WalError,
)
from dfs.core.names import KEY_BYTES_MAX, has_refused_characters
from dfs.core.signing import (
    derive_signing_key,
    hash_secret,
    is_key_id,
    make_token,
    parse_token,
)
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.command import RECORD_OVERHEAD_BYTES, Bytesless, Draft
from dfs.services.commit import Committer
from dfs.wal.record import PutKey, RevokeKey

NAME_CHARS_MAX = 128
KEYS_MAX = 10_000
BATCH_COUNT_MAX = 128
_RECORD_BYTES_MAX = RECORD_OVERHEAD_BYTES + 4 * (NAME_CHARS_MAX + KEY_BYTES_MAX)

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. Its secret is nowhere else."""

    key: Key
    secret: str


class CreateKey(Bytesless):
    """Put a key that nobody has yet.

    Attributes:
        key: as it stands in the index then.
    """

    log_bytes_max = _RECORD_BYTES_MAX

    def __init__(self, record: PutKey) -> None:
        self.key: Key | None = None
        self._record = record

    def plan(self, index: IndexTransaction) -> list[Draft]:
        if index.keys.count() >= KEYS_MAX:
            raise InvalidRequestError(f"There are {KEYS_MAX} keys already.")
        if index.keys.find(self._record.id) is not None:  # 60 random bits: it cannot happen twice
            raise InvalidRequestError("That id was taken at this moment; ask again.")
        return [Draft(self._record)]

    def read_back(self, index: IndexTransaction) -> None:
        self.key = index.keys.find(self._record.id)


class RevokeKeys(Bytesless):
    """Revoke some keys that are there.

    Args:
        expired_by_ms: only those that have expired by then; None: whichever.
        may_be_last: even if none is left then, so that the node asks for no keys any more.

    Attributes:
        count: how many those were.
    """

    def __init__(
        self,
        key_ids: Sequence[str],
        *,
        by: str,
        expired_by_ms: int | None = None,
        may_be_last: bool = False,
    ) -> None:
        self.count = 0
        self.log_bytes_max = RECORD_OVERHEAD_BYTES * len(key_ids)
        self._key_ids = key_ids
        self._by = by
        self._expired_by_ms = expired_by_ms
        self._may_be_last = may_be_last

    def plan(self, index: IndexTransaction) -> list[Draft]:
        moment_ms = now_ms()
        keys = [
            key
            for key_id in self._key_ids
            if (key := index.keys.find(key_id)) is not None
            and (self._expired_by_ms is None or key.has_expired(self._expired_by_ms))
        ]
        self.count = len(keys)
        if keys and len(keys) == index.keys.count() and not self._may_be_last:
            raise LastKeyError(
                "It is the last key: without it the node would be open to everybody."
            )
        return [
            Draft(RevokeKey(key.id, moment_ms, first_lsn=key.first_lsn, by=self._by))
            for key in keys
        ]


class KeyService:
    """What administrators do with keys.

    Args:
        index: for reading; every change goes through `committer`.
        copies: stores that a change waits for, if so many can be had.
    """

    def __init__(self, *, committer: Committer, index: IndexRepository, copies: int = 1) -> None:
        self._committer = committer
        self._index = index
        self._copies = copies

    def create(
        self,
        *,
        name: str,
        scopes: int,
        prefix: str = "",
        expires_at_ms: int | None = None,
        token: str | None = None,
        caller: Caller,
    ) -> NewKey:
        """Make a key.

        Args:
            name: for people; several keys may have the same.
            scopes: sum of `Scope`, at least one.
            token: its id and secret, as `make_token` makes them; None: new ones.

        Raises:
            InvalidRequestError: name, scopes, prefix or expiry cannot be.
            And what `Committer.submit` raises.

        Durability: on return the record is synced, on as many stores as can be had of those that
        files wait for.
        """
        created_at_ms = now_ms()
        faults = _find_faults(name, scopes, prefix)
        if expires_at_ms is not None and expires_at_ms <= created_at_ms:
            faults["expires_at"] = ["must lie in the future"]
        if faults:
            raise InvalidRequestError("There cannot be such a key.", fields=faults)
        key_id, secret = parse_token(token or make_token()) or ("", "")
        command = CreateKey(
            PutKey(
                id=key_id,
                name=name,
                scopes=scopes,
                secret_hash=hash_secret(secret),
                signing_key=derive_signing_key(secret),
                created_at_ms=created_at_ms,
                prefix=prefix,
                expires_at_ms=expires_at_ms,
                by=caller.key_id,
            )
        )
        self._submit(command)
        if command.key is None:
            raise WalError("The key was not made.")
        return NewKey(command.key, secret)

    def list(self) -> Sequence[Key]:
        """Return all keys, by id; those that have expired stay for a while."""
        return self._index.list_keys()

    def find(self, key_id: str) -> Key:
        """Return a key. Raises NoSuchKeyError."""
        key = self._index.find_key(key_id) if is_key_id(key_id) else None
        if key is None:
            raise NoSuchKeyError("There is no key of that id.")
        return key

    def revoke(self, key_id: str, *, caller: Caller, may_be_last: bool = False) -> None:
        """Make a key good for nothing, in every process within half a second.

        Raises:
            NoSuchKeyError: there is none.
            LastKeyError: no other is left, and `may_be_last` is not set.
            And what `Committer.submit` raises.

        Durability: on return the record is synced, on as many stores as can be had of those that
        files wait for.
        """
        command = RevokeKeys([self.find(key_id).id], by=caller.key_id, may_be_last=may_be_last)
        self._submit(command)
        if not command.count:
            raise NoSuchKeyError("There is no key of that id.")

    def forget_expired(self, *, expired_by_ms: int) -> int:
        """Revoke keys that have expired by then, but for the last one. Returns how many.

        A node whose keys have all expired must not be taken for one that never had any.
        """
        keys = self._index.list_keys()
        expired = [key.id for key in keys if key.has_expired(expired_by_ms)]
        if len(expired) == len(keys):
            expired = expired[1:]
        if not expired:
            return 0
        command = RevokeKeys(expired[:BATCH_COUNT_MAX], by=NODE_ID, expired_by_ms=expired_by_ms)
        self._committer.submit(command)
        return command.count

    def _submit(self, command: CreateKey | RevokeKeys) -> None:
        """Have a change made, on as many stores as files wait for; else on the primary alone.

        A key that a stranger knows must be revoked though no replica can be reached.
        """
        if self._copies > 1:
            try:
                self._committer.submit(command, copies=self._copies)
            except QuorumError as error:
                logger.warning("key_changed_on_primary_alone", error=str(error))
            else:
                return
        self._committer.submit(command)


def _find_faults(name: str, scopes: int, prefix: str) -> dict[str, list[str]]:
    faults: dict[str, list[str]] = {}
    if not 0 < len(name) <= NAME_CHARS_MAX or has_refused_characters(name):
        faults["name"] = [f"must have 1 to {NAME_CHARS_MAX} characters, none of them for control"]
    if not scopes or scopes & ~ALL_SCOPES:
        faults["scopes"] = ["must name at least one of read, write, delete, admin"]
    elif scopes & Scope.ADMIN and prefix:
        faults["prefix"] = ["a key with the scope admin is good for all names"]
    if prefix and (has_refused_characters(prefix) or len(prefix.encode()) > KEY_BYTES_MAX):
        faults["prefix"] = [f"must have at most {KEY_BYTES_MAX} bytes and no control characters"]
    return faults
