"""Jobs as they are read from Redis: whoever can write there must not thereby do anything here.

rq itself would call any function that can be imported, with any arguments, and more of them before
and after it, or ask any address, as the fields of a job say. So of a job only the fields below are
read; it must call one of the functions below, with arguments as they are named and formed below;
and it may not be large. Anything else is no job: it is removed, and the log says so.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job

from dfs.core.tracing import TRACEPARENT

_STORE = re.compile(r"[A-Za-z0-9_-]{1,64}")
CALLS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "workers.jobs.replicate": {"store": _STORE},
    "workers.jobs.scrub": {"store": _STORE},
    "workers.jobs.collect_garbage": {},
    "workers.jobs.compact": {},
    "workers.jobs.sweep_temporaries": {},
}
"""Each function that a job may call: the names of its arguments, all texts, and their form."""
CARRIED = "traceparent"
"""An argument that any of them may have: the span that the job belongs to. It does not get it."""
FIELDS = (
    b"data", b"status", b"origin", b"timeout", b"result_ttl", b"failure_ttl", b"worker_name",
    b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat",
)  # fmt: skip
FIELD_BYTES_MAX = 4096
SECONDS_MAX = 7 * 86400
_SECONDS = (b"timeout", b"result_ttl", b"failure_ttl")
_Call = tuple[str, None, tuple[()], dict[str, Any]]

logger = structlog.get_logger()


class CheckedJob(Job):
    """A job of which nothing is believed.

    Attributes:
        carried: the span that it belongs to, if it says so.
    """

    carried: str | None = None

    def refresh(self) -> None:
        """Read the job anew.

        Raises:
            NoSuchJobError: there is none, or it was refused.
            redis.RedisError: the queue does not answer.
        """
        try:
            with self.connection.pipeline() as pipeline:
                for field in FIELDS:
                    pipeline.hstrlen(self.key, field)
                if max(pipeline.execute()) > FIELD_BYTES_MAX:
                    self._refuse("a field is too long")
            values = self.connection.hmget(self.key, list(FIELDS))
        except ResponseError as error:  # it is no hash
            self._refuse(str(error))
        found = {
            field: value
            for field, value in zip(FIELDS, values, strict=True)
            if isinstance(value, bytes)
        }
        if not found:
            raise NoSuchJobError(f"No such job: {self.id}")
        self.restore(found)

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over what Redis says of the job. Raises NoSuchJobError if it was refused."""
        try:
            fields, self.carried = _check(raw_data)
            super().restore(fields)
        except Exception as error:  # whatever can be wrong with it
            self._refuse(f"{type(error).__name__}: {error}")

    def _refuse(self, reason: str) -> NoReturn:
        logger.warning("job_refused", job=self.id[:64], reason=reason[:200])
        with suppress(RedisError):
            self.connection.delete(self.key)
        raise NoSuchJobError(f"The job {self.id[:64]} was refused: {reason[:200]}")


def _check(raw: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], str | None]:
    """Return what may be believed: (fields of a job, the span that it belongs to).

    Raises:
        ValueError, zlib.error: nothing may be.
    """
    fields = {field: raw[field] for field in FIELDS if raw.get(field)}
    if max(map(len, fields.values()), default=0) > FIELD_BYTES_MAX:
        raise ValueError("a field is too long")
    for name in _SECONDS:
        if not 0 <= int(fields.get(name, b"0")) <= SECONDS_MAX:
            raise ValueError(f"{name.decode()} is out of bounds")
    fields[b"data"], carried = _check_call(fields.get(b"data", b""))
    return fields, carried


def _check_call(data: bytes) -> tuple[bytes, str | None]:
    """Return (JSON of a call that is allowed, the span that it belongs to). Raises as `_check`."""
    if not data.startswith(b"["):
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data, FIELD_BYTES_MAX)
        if unpacker.unconsumed_tail:
            raise ValueError("the call is too long")
    name, _, _, arguments = msgspec.json.decode(data, type=_Call)
    carried = arguments.pop(CARRIED, None)
    if not isinstance(carried, str) or not TRACEPARENT.fullmatch(carried):
        carried = None  # it is no reason to refuse the job
    forms = CALLS.get(name)
    if forms is None:
        raise ValueError(f"{name[:64]!r} is not to be called")
    if arguments.keys() != forms.keys():
        raise ValueError("the arguments are others")
    for argument, form in forms.items():
        if not isinstance(arguments[argument], str) or not form.fullmatch(arguments[argument]):
            raise ValueError("an argument is malformed")
    return msgspec.json.encode((name, None, (), arguments)), carried
