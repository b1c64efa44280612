"""Every error dfs raises on purpose.

    DfsError
     |- ConfigError                  a setting is missing, malformed or contradicts another
     |- RequestError                 the caller asked for something that cannot be done
     |   |- InvalidRequestError      a field, header or body that does not parse or validate
     |   |- InvalidNameError         a file name that cannot be stored
     |   |- InvalidRangeError        a byte range outside the file
     |   |- TooLargeError            more bytes than a limit allows
     |   |- TruncatedBodyError       the body ended before it was complete
     |   |- SlowBodyError            the body does not come in time
     |   |- DigestMismatchError      the bytes are not those of the checksum sent with them
     |   |- NoSuchFileError          no file has that id
     |   |- NoSuchSegmentError       no segment of the log has that id
     |   |- NoSuchStoreError         no store has that name
     |   |- NoSuchKeyError           no API key has that id
     |   |- LastKeyError             without this key the node would be open to everybody again
     |   |- UnauthorizedError        nobody knows who asks
     |   |- ForbiddenError           whoever asks may not do this
     |   |- CrossSiteError           another web site has made a browser ask
     |   |- TooManyRequestsError     the caller asks for more than he may at a time
     |   |   `- TooManyAttemptsError  too many wrong credentials came from that address
     |   |- QuotaExceededError       the node would hold more bytes than it may
     |   |- AlreadyExistsError       the caller demanded that the name be free, and it is not
     |   `- PreconditionFailedError  the file is not the one named by If-Match
     |- StorageError                 a store could not do what was asked
     |   |- NoSpaceError             the disk, or a quota of its own, is full
     |   |- BlobMissingError         no store holds the blob
     |   |- BlobCorruptError         a block of the blob does not have its checksum
     |   |- StoreUnavailableError    the store does not answer
     |   |- QuorumError              too few stores could take a synchronous write
     |   `- StoreIdentityError       the store belongs to another cluster or a newer program
     |- WalError                     the log could not do what was asked
     |   |- WalTornTailError         the newest segment ends in bytes that are no record
     |   |- WalCorruptError          bytes that were durable are damaged
     |   |- WalGapError              records are missing
     |   |- WalDroppedError          the record stands elsewhere: its segment was dropped
     |   |- WalFormatError           a format or record type this program does not know
     |   `- WalReadOnlyError         an earlier sync failed: no writes until the next start
     |- MetadataError                the index could not do what was asked
     |   |- IndexDamagedError        the index is unreadable and has to be rebuilt from the log
     |   `- IndexUnavailableError    the database does not answer
     `- QueueError                   the queue does not answer

An error says what happened (`message`), which stable code a program may test (`code`), whether the
same call may succeed later (`retryable`), what an operator can do (`hint`), and where (`context`,
which goes to the log and never to a client).
"""

from __future__ import annotations


class DfsError(Exception):
    """Base of all errors raised by dfs.

    Args:
        message: one sentence for the reader of the answer or of the log.
        hint: what an operator can do about it; empty where there is nothing to do.
        context: where it happened (path, offset, lsn, ...), for the log only.
    """

    code = "internal"
    retryable = False

    def __init__(self, message: str, *, hint: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        where = ", ".join(f"{name}={value}" for name, value in self.context.items())
        parts = [self.message, f"({where})" if where else "", self.hint and f"Hint: {self.hint}"]
        return " ".join(part for part in parts if part)


class ConfigError(DfsError):
    """A setting is missing, malformed or contradicts another. All faults are reported at once."""

    code = "config"


class RequestError(DfsError):
    """The caller asked for something that cannot be done."""

    code = "invalid_request"


class InvalidRequestError(RequestError):
    """A field, header or body does not parse or validate.

    Args:
        fields: the messages for each offending field, shown to the client.
    """

    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        fields: dict[str, list[str]] | None = None,
        hint: str = "",
        **context: object,
    ) -> None:
        super().__init__(message, hint=hint, **context)
        self.fields = fields or {}


class InvalidNameError(RequestError):
    """A file name is empty, too long, or holds characters that cannot be stored."""

    code = "invalid_name"


class InvalidRangeError(RequestError):
    """No byte of the file lies in the requested range.

    Args:
        size: size of the file in bytes, for `Content-Range: bytes */size`.
    """

    code = "invalid_range"

    def __init__(self, message: str, *, size: int, hint: str = "", **context: object) -> None:
        super().__init__(message, hint=hint, **context)
        self.size = size


class TooLargeError(RequestError):
    """More bytes than a limit allows."""

    code = "too_large"


class TruncatedBodyError(RequestError):
    """The body ended before it was complete: the client went away or lied about the length."""

    code = "truncated_body"


class SlowBodyError(RequestError):
    """The body came more slowly than a client may send."""

    code = "slow_client"


class DigestMismatchError(RequestError):
    """The bytes received are not those of the checksum sent with them."""

    code = "digest_mismatch"


class NoSuchFileError(RequestError):
    """No file has that id."""

    code = "no_such_file"


class NoSuchStoreError(RequestError):
    """No store has that name."""

    code = "no_such_store"


class NoSuchSegmentError(RequestError):
    """No segment of the log has that id."""

    code = "no_such_segment"


class NoSuchKeyError(RequestError):
    """No API key has that id."""

    code = "no_such_key"


class LastKeyError(RequestError):
    """Without this key the node would have none, and be open to everybody on its machine again."""

    code = "last_key"


class UnauthorizedError(RequestError):
    """Nobody knows who asks: there are no credentials, or they are not those of a key."""

    code = "unauthorized"


class ForbiddenError(RequestError):
    """Whoever asks may not do this."""

    code = "forbidden"


class CrossSiteError(RequestError):
    """Another web site has made a browser ask for this."""

    code = "cross_site"


class TooManyRequestsError(RequestError):
    """The caller asks for more than he may at a time.

    Args:
        retry_after_s: seconds until the next request may succeed.
    """

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after_s: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class TooManyAttemptsError(TooManyRequestsError):
    """Too many wrong credentials came from that address."""

    code = "too_many_attempts"


class QuotaExceededError(RequestError):
    """The node would hold more bytes of files than it may. Nothing of the change was kept."""

    code = "quota_exceeded"


class AlreadyExistsError(RequestError):
    """The caller demanded that the name be free (`If-None-Match: *`), and it is not."""

    code = "already_exists"


class PreconditionFailedError(RequestError):
    """The file is not the one the caller named with `If-Match`."""

    code = "precondition_failed"


class StorageError(DfsError):
    """A store could not do what was asked."""

    code = "storage"
    retryable = True


class NoSpaceError(StorageError):
    """The disk, or the quota on it, is full. Nothing of the change was kept."""

    code = "no_space"


class BlobMissingError(StorageError):
    """No store holds the blob."""

    code = "blob_missing"
    retryable = False


class BlobCorruptError(StorageError):
    """A block of the blob does not have its checksum. No byte of that block was passed on."""

    code = "blob_corrupt"
    retryable = False


class StoreUnavailableError(StorageError):
    """The store does not answer, or answers with an input/output error."""

    code = "store_unavailable"


class QuorumError(StorageError):
    """Too few stores could take a synchronous write in time. Nothing was stored."""

    code = "quorum_unreachable"
    retryable = True


class StoreIdentityError(StorageError):
    """The store belongs to another cluster, or was written by a newer program."""

    code = "store_identity"
    retryable = False


class WalError(DfsError):
    """The log could not do what was asked."""

    code = "wal"


class WalTornTailError(WalError):
    """The newest segment ends in bytes that are no record. Repair keeps them aside."""

    code = "wal_torn_tail"


class WalCorruptError(WalError):
    """Bytes of the log that were durable are damaged. Never skipped, never repaired by guessing."""

    code = "wal_corrupt"


class WalGapError(WalError):
    """Records are missing: a segment is gone, or the log ends before the index does."""

    code = "wal_gap"


class WalDroppedError(WalError):
    """The segment was dropped; what was needed of it stands where the index says by now."""

    code = "wal_dropped"
    retryable = True


class WalFormatError(WalError):
    """A format version or record type this program does not know."""

    code = "wal_format"


class WalReadOnlyError(WalError):
    """An earlier write or sync of the log failed: no writes until the next start."""

    code = "wal_read_only"
    retryable = True


class MetadataError(DfsError):
    """The index could not do what was asked."""

    code = "metadata"
    retryable = True


class IndexDamagedError(MetadataError):
    """The index is unreadable. It holds nothing the log does not: the next start rebuilds it."""

    code = "index_damaged"


class IndexUnavailableError(MetadataError):
    """The database does not answer."""

    code = "index_unavailable"


class KeysUnavailableError(MetadataError):
    """The API keys cannot be looked up, so that nobody is known. Why, strangers are not told."""

    code = "keys_unavailable"


class QueueError(DfsError):
    """The queue does not answer. Nothing is lost: what is owed stands in the index."""

    code = "queue"
    retryable = True
