"""Files sent as multipart/form-data, written to the store as they arrive.

Werkzeug's decoder is driven directly, without its FormDataParser: that one would swallow a
malformed form, and learn of a field that is not allowed only after the last byte of a large file.

Source: RFC 7578.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from dfs.api.streams import BodyStream
from dfs.core.errors import (
    InvalidNameError,
    InvalidRequestError,
    TooLargeError,
    TruncatedBodyError,
)

if TYPE_CHECKING:
    from dfs.services.upload import BlobWriter

FILES_MAX = 100
"""Files in one form: they are committed together, and a commit's memory is bounded."""

FORM_FIELDS = ("metadata", "expires_at", "ttl_s")
FIELD_BYTES_MAX = 64 << 10
_FEED_BYTES = 64 << 10  # the decoder copies its buffer: four times slower when fed 1 MiB at once
_BOUNDARY_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class FormFile:
    """One file of a form. `name` is the one that the client gave, unchecked."""

    name: str
    content_type: str
    blob: BlobWriter


def parse_boundary(content_type: str) -> bytes | None:
    """Return the boundary of a multipart/form-data body; None for a body of another type.

    Raises:
        InvalidRequestError: the boundary is missing or malformed.
    """
    mimetype, options = parse_options_header(content_type)
    if mimetype != "multipart/form-data":
        return None
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= _BOUNDARY_CHARS_MAX or not boundary.isascii():
        raise InvalidRequestError(
            "The boundary of the form is missing or malformed.",
            fields={"Content-Type": ["needs a boundary"]},
        )
    return boundary.encode("ascii")


class FormReader:
    """Reads one form.

    Args:
        new_blob: makes the place that the bytes of the next file go to.

    Attributes:
        files: begun so far, the one being received included; whoever reads discards their blobs.
        fields: the other fields, as text.
    """

    def __init__(self, *, new_blob: Callable[[], BlobWriter]) -> None:
        self.files: list[FormFile] = []
        self.fields: dict[str, str] = {}
        self._new_blob = new_blob
        self._field = ""
        self._value = bytearray()
        self._blob: BlobWriter | None = None

    def read(self, body: BodyStream, boundary: bytes) -> None:
        """Read the form to its end.

        Raises:
            InvalidRequestError: the form is malformed or has a field that is not allowed.
            InvalidNameError: the name of a file is no UTF-8.
            TooLargeError: a field, the headers of a part, or the number of files.
            TruncatedBodyError: the body ends before the form does.
        """
        decoder = multipart.MultipartDecoder(
            boundary,
            max_form_memory_size=FIELD_BYTES_MAX + _FEED_BYTES,
            max_parts=FILES_MAX + len(FORM_FIELDS),
        )
        try:
            while data := body.read():
                view = memoryview(data)
                for start in range(0, len(view), _FEED_BYTES):
                    decoder.receive_data(view[start : start + _FEED_BYTES])  # type: ignore[arg-type]
                    self._take_events(decoder)
            self._finish(decoder)
        except RequestEntityTooLarge as error:
            raise TooLargeError(
                f"A form may have {FILES_MAX} files, a field of it {FIELD_BYTES_MAX} bytes."
            ) from error
        except UnicodeDecodeError as error:
            raise InvalidNameError("The headers of a part of the form are not UTF-8.") from error
        except ValueError as error:
            raise InvalidRequestError("The form is malformed.") from error

    def _take_events(self, decoder: multipart.MultipartDecoder) -> None:
        while True:
            event = decoder.next_event()
            if isinstance(event, multipart.Data):
                self._take_data(event)
            elif isinstance(event, multipart.File):
                self._begin_file(event)
            elif isinstance(event, multipart.Field):
                self._begin_field(event)
            elif isinstance(event, multipart.NeedData):
                return

    def _finish(self, decoder: multipart.MultipartDecoder) -> None:
        if decoder.state is not multipart.State.EPILOGUE:
            raise TruncatedBodyError("The form ended before its closing boundary.")
        if not self.files:
            _refuse("file", "at least one file is needed")

    def _begin_file(self, event: multipart.File) -> None:
        if event.name != "file":
            _refuse(event.name, "unknown field; files are sent as `file`")
        if len(self.files) == FILES_MAX:
            raise TooLargeError(f"A form may have {FILES_MAX} files.")
        content_type = event.headers.get("Content-Type") or "application/octet-stream"
        self._blob = self._new_blob()
        self.files.append(FormFile(event.filename, content_type, self._blob))

    def _begin_field(self, event: multipart.Field) -> None:
        if event.name == "file":
            _refuse("file", "needs a filename")
        if event.name not in FORM_FIELDS:
            _refuse(event.name, "unknown field")
        if event.name in self.fields:
            _refuse(event.name, "given more than once")
        self._field = event.name
        self._value.clear()
        self._blob = None

    def _take_data(self, event: multipart.Data) -> None:
        if self._blob is not None:
            self._blob.write(event.data)
            return
        self._value += event.data
        if len(self._value) > FIELD_BYTES_MAX:
            raise TooLargeError(f"A field of a form may have {FIELD_BYTES_MAX} bytes.")
        if not event.more_data:
            try:
                self.fields[self._field] = self._value.decode()
            except UnicodeDecodeError:
                _refuse(self._field, "not UTF-8")


def _refuse(field: str | None, reason: str) -> NoReturn:
    raise InvalidRequestError("The form is not valid.", fields={field or "": [reason]})
