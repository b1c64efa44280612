"""What went wrong at an object store, told in errors of dfs.

The library gives its faults as text: one line on the request, the answer's status and body, then a
dump of the whole error. Status and code are taken out of it; the text itself, which may quote
what was signed, is left behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dfs.core.errors import NoSpaceError, StorageError, StoreUnavailableError

NO_SUCH_KEY = frozenset({"NoSuchKey", "NoSuchVersion"})
RANGE_BEHIND_END = 416
_FORBIDDEN = frozenset({401, 403})
_INSUFFICIENT_STORAGE = 507
_NO_SPACE = frozenset(
    {
        "InsufficientCapacity",
        "InsufficientStorage",
        "NoSpaceLeft",
        "QuotaExceeded",
        "QuotaExceededException",
        "StorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    }
)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_KIND = re.compile(r"\bkind: (Timeout|Connect)\b")


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error of the library says.

    Attributes:
        status: of the HTTP answer; None if there was none.
        code: the error code of S3; empty if the answer has none.
        reason: both in a few words.
    """

    status: int | None
    code: str
    reason: str


def describe_fault(error: Exception) -> Fault:
    """Return what an error of the library says."""
    text = str(error)
    line = text.partition("\n\nDebug source")[0]
    status, code, kind = _STATUS.search(line), _CODE.search(line), _KIND.search(text)
    if status is not None:
        name = code[1] if code is not None else ""
        return Fault(int(status[1]), name, f"it answered {status[1]} {name}".rstrip())
    if kind is not None:
        reasons = {"Timeout": "it did not answer in time", "Connect": "it cannot be connected to"}
        return Fault(None, "", reasons[kind[1]])
    return Fault(None, "", line.partition("\n")[0].rpartition(" - ")[2][:200] or "no reason given")


def storage_fault(error: Exception, *, place: str) -> StorageError:
    """Return the StorageError for an error of the library; raise it `from` the cause.

    Args:
        place: the URL of the object or store.
    """
    fault = describe_fault(error)
    context = {"path": place, "status": fault.status, "code": fault.code}
    if fault.status == _INSUFFICIENT_STORAGE or fault.code in _NO_SPACE:
        return NoSpaceError(
            f"There is no space left in the object store: {fault.reason}.",
            hint="Free some space, or raise the quota; the write may then be repeated.",
            **context,
        )
    return StoreUnavailableError(
        f"The object store did not do what was asked: {fault.reason}.",
        hint=_hint(fault),
        **context,
    )


def _hint(fault: Fault) -> str:
    """Return what an operator can do."""
    if fault.status is None:
        return "Does the server run, and is the endpoint the right one?"
    if fault.status in _FORBIDDEN:
        return "Check the keys, what they may do with the bucket, and the clock of this machine."
    if fault.code == "NoSuchBucket":
        return "Create the bucket, or name another one."
    return "Look at the log of the object store."
