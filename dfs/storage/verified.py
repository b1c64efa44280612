"""Reading a blob of any store so that no wrong byte is passed on."""

from __future__ import annotations

from collections.abc import Iterator

from dfs.core.checksum import CRC32_BYTES, crc32
from dfs.core.errors import BlobCorruptError
from dfs.core.model import BLOCK_BYTES
from dfs.storage.base import BlobReader


def read_verified(
    reader: BlobReader,
    *,
    size: int,
    block_crc32s: bytes,
    start: int,
    stop: int,
    digest: bytes | None = None,
) -> Iterator[bytes]:
    """Read a run of bytes of a blob, each block of it checked before a byte of it is passed on.

    Args:
        reader: the blob; stays open.
        size: bytes the blob must have.
        block_crc32s: as in `model.Blob`.
        start, stop: the run is [start, stop), with 0 <= start <= stop <= size.
        digest: only for the text of an error.

    Returns:
        The run in pieces of at most `BLOCK_BYTES`, in order, none empty. Blocks are read one by
        one as the pieces are asked for.

    Raises:
        BlobCorruptError: at once if blob or checksums do not have their sizes; while reading, at
            the first block that is short or does not have its checksum (context: `block`).
        StoreUnavailableError: while reading.
        ValueError: the run is not inside the blob.
    """
    if not 0 <= start <= stop <= size:
        raise ValueError(f"[{start}, {stop}) is not inside {size} bytes")
    named = {"digest": digest.hex()} if digest is not None else {}
    if reader.size != size:
        raise BlobCorruptError(
            "The blob does not have its size.", size=reader.size, size_expected=size, **named
        )
    if len(block_crc32s) != -(-size // BLOCK_BYTES) * CRC32_BYTES:
        raise BlobCorruptError(
            "The blob does not have one checksum a block.",
            size=size,
            checksum_bytes=len(block_crc32s),
            **named,
        )
    return _verified_pieces(reader, block_crc32s, start, stop, named)


def _verified_pieces(
    reader: BlobReader, block_crc32s: bytes, start: int, stop: int, named: dict[str, str]
) -> Iterator[bytes]:
    """Yield the run that `read_verified` has found to be sound in its sizes."""
    position = start
    while position < stop:
        block = position // BLOCK_BYTES
        block_start = block * BLOCK_BYTES
        length = min(BLOCK_BYTES, reader.size - block_start)
        data = reader.read(block_start, length)
        checksum = block_crc32s[block * CRC32_BYTES : (block + 1) * CRC32_BYTES]
        if len(data) != length or crc32(data) != int.from_bytes(checksum, "little"):
            raise BlobCorruptError(
                "A block of the blob does not have its checksum.",
                block=block,
                offset=block_start,
                read_bytes=len(data),
                **named,
            )
        # Slicing a whole `bytes` object returns the object itself: no copy on the common way.
        yield data[position - block_start : stop - block_start]
        position = block_start + length
