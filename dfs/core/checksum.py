"""CRC32 of bytes and of the blocks of a blob.

The polynomial is that of zlib, gzip and Ethernet, computed by ISA-L at several times zlib's speed.
It finds damage; against somebody who forges bytes the SHA-256 of the blob is there.
"""

from __future__ import annotations

from collections.abc import Iterable

from isal import isal_zlib

from dfs.core.model import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview

CRC32_BYTES = 4
"""Bytes of one stored CRC32: little-endian, unsigned."""


def crc32(data: Buffer, value: int = 0) -> int:
    """Return the CRC32 of `data`, as an unsigned number of 32 bits.

    Args:
        value: CRC32 of the bytes in front of `data`; 0 at the start.
    """
    return int(isal_zlib.crc32(data, value))


class BlockChecksummer:
    """Folds a stream of bytes into one CRC32 a block. For one thread.

    Args:
        block_bytes: size of a block; the last one of a stream may be shorter.
    """

    def __init__(self, *, block_bytes: int = BLOCK_BYTES) -> None:
        if block_bytes < 1:
            raise ValueError("a block has at least one byte")
        self._block_bytes = block_bytes
        self._full = bytearray()
        self._crc32 = 0
        self._filled_bytes = 0

    def update(self, data: Buffer) -> None:
        """Take the next bytes of the stream. Copies none of them."""
        rest = memoryview(data).cast("B")
        while rest:
            piece = rest[: self._block_bytes - self._filled_bytes]
            self._crc32 = crc32(piece, self._crc32)
            self._filled_bytes += len(piece)
            if self._filled_bytes == self._block_bytes:
                self._full += self._crc32.to_bytes(CRC32_BYTES, "little")
                self._crc32 = self._filled_bytes = 0
            rest = rest[len(piece) :]

    def digest(self) -> bytes:
        """Return the CRC32 of every block so far, in order, 4 bytes little-endian each.

        The block being filled counts as the last; a stream without bytes has no block. The
        stream may go on afterwards.
        """
        if not self._filled_bytes:
            return bytes(self._full)
        return bytes(self._full) + self._crc32.to_bytes(CRC32_BYTES, "little")


def block_checksums(pieces: Iterable[Buffer], *, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Return `BlockChecksummer.digest()` of a whole stream, however it is cut into pieces."""
    checksummer = BlockChecksummer(block_bytes=block_bytes)
    for piece in pieces:
        checksummer.update(piece)
    return checksummer.digest()
