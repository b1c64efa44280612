"""Whose a store is: the file `dfs.json` at its top.

    {"format_version": 1, "cluster_id": "<32 hex>", "store_id": "<32 hex>",
     "created_at": "2026-11-22T18:24:53.000Z"}

Fields that are not known are passed over; a change that an older program must not overlook
raises the format version.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from dfs.core.clock import now_ms
from dfs.core.durable import replace_durably, storage_error
from dfs.core.errors import StoreIdentityError
from dfs.core.regular import NOT_REGULAR, read_start

FORMAT_VERSION = 1
ID_BYTES = 16
DOCUMENT_BYTES_MAX = 1 << 16
IDENTITY_NAME = "dfs.json"
_ID = re.compile(r"[0-9a-f]{32}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreIdentity:
    """What `dfs.json` says.

    Attributes:
        cluster_id: 16 raw bytes, the same in all stores that hold copies of one log.
        store_id: 16 raw bytes, its own in each store.
    """

    cluster_id: bytes
    store_id: bytes
    created_at_ms: int
    format_version: int = FORMAT_VERSION


class _Version(msgspec.Struct):
    """The one field that every version of the file has."""

    format_version: int


class _Document(msgspec.Struct):
    """The file as JSON."""

    format_version: int
    cluster_id: str
    store_id: str
    created_at: datetime


def new_identity(*, cluster_id: bytes | None = None) -> StoreIdentity:
    """Return the identity of a store that is created now.

    Args:
        cluster_id: the cluster it joins; a new one when None.
    """
    return StoreIdentity(
        cluster_id=secrets.token_bytes(ID_BYTES) if cluster_id is None else cluster_id,
        store_id=secrets.token_bytes(ID_BYTES),
        created_at_ms=now_ms(),
    )


def read_identity(path: Path) -> StoreIdentity | None:
    """Return the identity of the store in a directory; None if there is none yet.

    Raises:
        StoreIdentityError: the file is malformed, or of a newer format than this program knows.
        StoreUnavailableError: the file could not be read.
    """
    file = path / IDENTITY_NAME
    try:
        data, _ = read_start(file, DOCUMENT_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in NOT_REGULAR:
            raise _malformed("it is no file", file) from error
        raise storage_error(error, path=file) from error
    return decode_identity(data, path=file)


def write_identity(path: Path, identity: StoreIdentity) -> None:
    """Mark a directory as a store. The directory must be there.

    Raises:
        StoreIdentityError: the directory is another store already.
        NoSpaceError, StoreUnavailableError: it could not be written; there is no half file.

    Durability: on return the file and its name are durable.
    """
    require_free(read_identity(path), identity, path=path)
    replace_durably(path / IDENTITY_NAME, encode_identity(identity))


def encode_identity(identity: StoreIdentity) -> bytes:
    """Return the content of `dfs.json`."""
    created_at = _EPOCH + timedelta(milliseconds=identity.created_at_ms)
    document = {
        "format_version": identity.format_version,
        "cluster_id": identity.cluster_id.hex(),
        "store_id": identity.store_id.hex(),
        "created_at": created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode_identity(data: bytes, *, path: object) -> StoreIdentity:
    """Return what the content of `dfs.json` says.

    Args:
        path: only for the text of an error.

    Raises:
        StoreIdentityError: it is malformed, or of a newer format than this program knows.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise StoreIdentityError(
                f"The store has format version {version}; this program knows {FORMAT_VERSION}.",
                hint="Run a newer dfs.",
                path=str(path),
            )
        return _identity(msgspec.json.decode(data, type=_Document))
    except (msgspec.MsgspecError, ValueError) as error:
        raise _malformed(str(error), path) from error


def _malformed(fault: str, path: object) -> StoreIdentityError:
    return StoreIdentityError(
        f"The identity of the store is malformed: {fault}.",
        hint=f"If this is the right place, `mv {path} {path}.aside` and start again: it is "
        "written anew, and what the store holds is compared. Else name another place.",
        path=str(path),
    )


def require_free(found: StoreIdentity | None, identity: StoreIdentity, *, path: object) -> None:
    """Refuse to adopt a store that has another identity already.

    Raises:
        StoreIdentityError: naming the store that is there.
    """
    if found is not None and found != identity:
        raise StoreIdentityError(
            "The place is a store already.",
            hint="Name another directory or prefix.",
            path=str(path),
            store_id=found.store_id.hex(),
        )


def require_cluster(identity: StoreIdentity, *, cluster_id: bytes, path: Path) -> None:
    """Refuse a store of another cluster.

    Raises:
        StoreIdentityError: naming both clusters.
    """
    if identity.cluster_id != cluster_id:
        raise StoreIdentityError(
            f"The store belongs to cluster {identity.cluster_id.hex()}, not to {cluster_id.hex()}.",
            hint="Check the paths of the stores and of the log: one of them is another node's.",
            path=str(path),
        )


def _identity(document: _Document) -> StoreIdentity:
    """Return the values of a document, or raise ValueError saying which is wrong."""
    if document.format_version < 1:
        raise ValueError("format_version must be at least 1")
    if document.created_at.tzinfo is None:
        raise ValueError("created_at must name its offset from UTC")
    return StoreIdentity(
        format_version=document.format_version,
        cluster_id=_id_bytes("cluster_id", document.cluster_id),
        store_id=_id_bytes("store_id", document.store_id),
        created_at_ms=(document.created_at - _EPOCH) // timedelta(milliseconds=1),
    )


def _id_bytes(name: str, text: str) -> bytes:
    """Return the raw bytes of an id, or raise ValueError naming the field."""
    if not _ID.fullmatch(text):
        raise ValueError(f"{name} must be {2 * ID_BYTES} hexadecimal digits")
    return bytes.fromhex(text)
