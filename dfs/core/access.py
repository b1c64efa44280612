"""Who asks, and what he may do.

Whoever acts is a `Caller`: the holder of an API key, or of a URL that one has signed; anybody, as
long as a node on loopback has no keys; or the node itself. A caller sees only files whose names
begin with his prefix: to him there are no others.
"""

from __future__ import annotations

from enum import IntFlag

import msgspec

from dfs.core.errors import ForbiddenError


class Scope(IntFlag):
    """What a key may be used for. The numbers are stored in the log and in the index.

    ADMIN is the node itself: its keys, its log, its stores, its figures. Whoever has it can make a
    key with any scope.
    """

    READ = 1
    WRITE = 2
    DELETE = 4
    ADMIN = 8


ALL_SCOPES = int(Scope.READ | Scope.WRITE | Scope.DELETE | Scope.ADMIN)
"""As a plain number, like the scopes of keys and callers: an enum's own operators are slow."""
NODE_ID = "node"
"""Stands in the log for the key of what the node did by itself, such as expiring a file."""
OPERATOR_ID = "operator"
"""Stands there for the key of whoever has the node's files, and needs none."""


def scope_names(scopes: int) -> list[str]:
    """Return the scopes by name, in lower case."""
    return [scope.name.lower() for scope in Scope if scopes & scope and scope.name]


class Key(msgspec.Struct, frozen=True, gc=False):
    """An API key, as the index knows it. Its secret is known to its holder alone.

    Attributes:
        name: for people.
        scopes: sum of `Scope`.
        prefix: it is good for files whose names begin so.
        secret_hash: SHA-256 of the secret.
        signing_key: what the secret signs URLs with, see `dfs.core.signing`.
        created_by: id of the key that made it.
        last_used_at_ms: to the minute or so; None since the index was rebuilt, or if never.
        lsn, segment_id, length: the last record that put the key, and its place and size.
        first_lsn: the first one.
    """

    id: str
    name: str
    scopes: int
    prefix: str
    secret_hash: bytes
    signing_key: bytes
    created_at_ms: int
    expires_at_ms: int | None
    created_by: str
    last_used_at_ms: int | None
    lsn: int
    first_lsn: int
    segment_id: int
    length: int

    def has_expired(self, at_ms: int) -> bool:
        """Tell whether the key has expired by a moment."""
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks.

    Attributes:
        key_id: id of the key; empty for somebody who has none.
        scopes: sum of `Scope`.
        prefix: files whose names begin otherwise do not exist for him.
        name: the only name under which he may store a file; None: any.
        upload_bytes_max: the largest file he may store; None: as the node is set.
        key: with which he may sign URLs; None for whoever has none, or only such a URL.
    """

    key_id: str = ""
    scopes: int = ALL_SCOPES
    prefix: str = ""
    name: str | None = None
    upload_bytes_max: int | None = None
    key: Key | None = None

    def sees(self, name: str) -> bool:
        """Tell whether a file of that name can exist for him."""
        return name.startswith(self.prefix)

    def require_name(self, name: str) -> None:
        """Raise ForbiddenError if he may not give a file that name.

        What is refused depends on the name alone, never on which files there are.
        """
        if not name.startswith(self.prefix):
            raise ForbiddenError(f"Names must begin with {self.prefix!r}.")
        if self.name is not None and name != self.name:
            raise ForbiddenError(f"The name must be {self.name!r}.")

    def require_scope(self, needed: int) -> None:
        """Raise ForbiddenError if he lacks one of these scopes."""
        if needed & ~self.scopes:
            missing = " and ".join(scope_names(needed & ~self.scopes))
            raise ForbiddenError(f"This needs a key with the scope {missing}.")


ANYBODY = Caller()
"""Whoever asks a node that has no keys, or is told to ask for none."""
NODE = Caller(key_id=NODE_ID)
OPERATOR = Caller(key_id=OPERATOR_ID)
