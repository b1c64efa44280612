"""The life of a staged blob, the same in every store: written, sealed, then published or gone."""

from __future__ import annotations


class Staging:
    """What a staged blob has come to. Each store's own class keeps the bytes.

    Attributes:
        _digest: since it was sealed. _size: bytes written.
        _has_failed: the bytes are in doubt. _is_gone: they were published or discarded.
    """

    def __init__(self) -> None:
        self._digest: bytes | None = None
        self._size = 0
        self._has_failed = False
        self._is_gone = False

    def room(self) -> memoryview | None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        return None

    def fill(self, count: int) -> None:
        """See `StagedBlob`."""
        raise ValueError(f"there is no room for {count} bytes")

    def require_sealed(self, digest: bytes, size: int) -> None:
        """Raise ValueError unless this was sealed as `digest` with `size` bytes."""
        self._require_open(sealed=True)
        if (self._digest, self._size) != (digest, size):
            raise ValueError("the staged blob was sealed with another digest or size")

    def _require_open(self, *, sealed: bool) -> None:
        """Raise ValueError unless the blob is there, sound, and `sealed` or not."""
        if self._is_gone:
            raise ValueError("the staged blob was published or discarded")
        if self._has_failed:
            raise ValueError("after an error the staged blob can only be discarded")
        if sealed is not (self._digest is not None):
            raise ValueError(f"the staged blob is {'not yet' if sealed else 'already'} sealed")
