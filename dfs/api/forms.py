"""Files sent as multipart/form-data, written to the store as they arrive.

The decoder is `multipart`'s and not Werkzeug's (3.1.9): that one appends a stray carriage return to
a file when a closing boundary is cut in two by the network (Werkzeug issue 3285).

Source: RFC 7578.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)
from werkzeug.http import parse_options_header

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
"""Files in one form at most: they are committed together, and a commit's memory is bounded."""

FORM_FIELDS = ("metadata", "expires_at", "ttl_s")
FIELD_BYTES_MAX = 64 << 10
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
        files_max, field_bytes_max: see the settings.

    Attributes:
        files: begun so far, the one being received included; whoever reads discards their blobs.
        fields: the other fields, as text.
    """

    def __init__(
        self,
        *,
        new_blob: Callable[[], BlobWriter],
        files_max: int = FILES_MAX,
        field_bytes_max: int = FIELD_BYTES_MAX,
    ) -> None:
        self.files: list[FormFile] = []
        self.fields: dict[str, str] = {}
        self._new_blob = new_blob
        self._files_max = files_max
        self._field_bytes_max = field_bytes_max
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
        parser = PushMultipartParser(
            boundary, max_segment_count=self._files_max + len(FORM_FIELDS), header_charset="utf8"
        )
        try:
            while data := body.read():
                for event in parser.parse(data):
                    self._take(event)
        except ParserLimitReached as error:
            raise TooLargeError(
                f"A form may have {self._files_max} files, and only short headers."
            ) from error
        except MultipartError as error:
            if isinstance(error.args[-1], UnicodeDecodeError):
                raise InvalidNameError("The headers of a part are not UTF-8.") from error
            raise InvalidRequestError("The form is malformed.") from error
        try:
            parser.close()
        except MultipartError as error:
            raise TruncatedBodyError("The form ended before its closing boundary.") from error
        if not self.files:
            _refuse("file", "at least one file is needed")

    def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            if event.filename is None:
                self._begin_field(event.name)
            else:
                self._begin_file(event, event.filename)
        elif event is None:
            if self._blob is None:
                self._end_field()
        elif self._blob is not None:
            self._blob.write(bytes(event))
        else:
            self._value += event
            if len(self._value) > self._field_bytes_max:
                raise TooLargeError(f"A field of a form may have {self._field_bytes_max} bytes.")

    def _begin_file(self, part: MultipartSegment, filename: str) -> None:
        if part.name != "file":
            _refuse(part.name, "unknown field; files are sent as `file`")
        if len(self.files) == self._files_max:
            raise TooLargeError(f"A form may have {self._files_max} files.")
        content_type = part.header("Content-Type") or "application/octet-stream"
        self._blob = self._new_blob()
        self.files.append(FormFile(filename, content_type, self._blob))

    def _begin_field(self, name: str | None) -> None:
        if name == "file":
            _refuse("file", "needs a filename")
        if name not in FORM_FIELDS:
            _refuse(name, "unknown field")
        if name in self.fields:
            _refuse(name, "given more than once")
        self._field = name
        self._value.clear()
        self._blob = None

    def _end_field(self) -> None:
        try:
            self.fields[self._field] = self._value.decode()
        except UnicodeDecodeError:
            _refuse(self._field, "not UTF-8")


def _refuse(field: str | None, reason: str) -> NoReturn:
    raise InvalidRequestError("The form is not valid.", fields={field or "": [reason]})
