"""Record types: coding, what is unknown, and what is damaged under a right checksum."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.core.errors import WalCorruptError, WalFormatError
from dfs.wal.frame import Flag, Frame, decode_frame, encode_frame
from dfs.wal.record import (
    STRUCTURES,
    DeleteFile,
    DropBlob,
    DropSegment,
    FileExtent,
    Meta,
    PurgeFile,
    PutBlob,
    PutFile,
    PutKey,
    RecordType,
    RestoreFile,
    RevokeKey,
    SealSegment,
    UpdateFile,
    decode_meta,
    encode_meta,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(0, 2**61 - 1)
DIGEST = st.binary(min_size=32, max_size=32)
METADATA = st.dictionaries(TEXT, TEXT, max_size=3)
METAS = st.one_of(
    st.builds(
        PutBlob,
        digest=DIGEST,
        size=NUMBER,
        inline=st.booleans(),
        block_crc32s=st.binary(max_size=16),
        first_lsn=NUMBER,
    ),
    st.builds(
        PutFile,
        id=TEXT,
        bucket=TEXT,
        key=TEXT,
        size=NUMBER,
        digest=DIGEST,
        content_type=TEXT,
        created_at_ms=NUMBER,
        metadata=METADATA,
        expires_at_ms=st.none() | NUMBER,
        extents=st.lists(
            st.builds(FileExtent, digest=DIGEST, offset=NUMBER, length=NUMBER), max_size=3
        ),
        updated_at_ms=NUMBER,
        deleted_at_ms=st.none() | NUMBER,
        first_lsn=NUMBER,
        by=TEXT,
    ),
    st.builds(DeleteFile, id=TEXT, deleted_at_ms=NUMBER, by=TEXT),
    st.builds(
        UpdateFile,
        id=TEXT,
        key=TEXT,
        content_type=TEXT,
        updated_at_ms=NUMBER,
        metadata=METADATA,
        expires_at_ms=st.none() | NUMBER,
        by=TEXT,
    ),
    st.builds(
        PutKey,
        id=TEXT,
        name=TEXT,
        scopes=NUMBER,
        secret_hash=DIGEST,
        signing_key=DIGEST,
        created_at_ms=NUMBER,
        prefix=TEXT,
        expires_at_ms=st.none() | NUMBER,
        first_lsn=NUMBER,
        by=TEXT,
    ),
    st.builds(RevokeKey, id=TEXT, revoked_at_ms=NUMBER, first_lsn=NUMBER, at_lsn=NUMBER, by=TEXT),
    st.builds(SealSegment, segment_id=NUMBER, first_lsn=NUMBER, sealed_at_ms=NUMBER),
    st.builds(
        RestoreFile, id=TEXT, restored_at_ms=NUMBER, expires_at_ms=st.none() | NUMBER, by=TEXT
    ),
    st.builds(PurgeFile, id=TEXT, purged_at_ms=NUMBER, first_lsn=NUMBER),
    st.builds(DropBlob, digest=DIGEST, first_lsn=NUMBER, at_lsn=NUMBER),
    st.builds(DropSegment, **dict.fromkeys(DropSegment.__struct_fields__, NUMBER)),
)


def frame_of(record_type: int, meta: bytes, *, flags: int = 0, data: bytes = b"") -> Frame:
    """Return the frame of a record that was written and read."""
    record = encode_frame(lsn=5, type=record_type, flags=flags, meta=meta, data=data)
    return decode_frame(memoryview(record), segment_id=2, offset=99)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(meta=METAS)
def test_decode_meta_returns_what_was_encoded(meta: Meta) -> None:
    """Every structure with every value comes back as it was, and as its own type."""
    record_type, encoded = encode_meta(meta)
    decoded = decode_meta(frame_of(record_type, encoded))
    assert type(decoded) is type(meta)
    assert decoded == meta


@pytest.mark.parametrize("record_type", RecordType)
def test_structures_have_one_class_a_type(record_type: RecordType) -> None:
    """No record type is without structure."""
    assert issubclass(STRUCTURES[record_type], msgspec.Struct)


@pytest.mark.parametrize("record_type", [0, max(RecordType) + 1, 255])
def test_decode_meta_of_unknown_type_refuses(record_type: int) -> None:
    """A record type of a newer program stops this one, and says where it stands."""
    with pytest.raises(WalFormatError, match=f"type {record_type}") as raised:
        decode_meta(frame_of(record_type, b"\x80"))
    assert raised.value.context == {"segment_id": 2, "offset": 99, "lsn": 5}


@pytest.mark.parametrize("flags", [4, 8, 128, 0xFF])
def test_decode_meta_with_unknown_flag_refuses(flags: int) -> None:
    """A flag of a newer program may change what the record means."""
    record_type, encoded = encode_meta(DeleteFile(id="x", deleted_at_ms=1))
    decode_meta(frame_of(record_type, encoded, flags=Flag.CONTINUES | Flag.COMMIT_START))
    with pytest.raises(WalFormatError):
        decode_meta(frame_of(record_type, encoded, flags=flags))


def test_decode_meta_passes_over_unknown_fields_and_keeps_them_raw() -> None:
    """A field of a newer program is not lost: it stays in the frame's meta."""
    fields = {"id": "x", "deleted_at_ms": 1, "reason": ["a", {"b": 2}]}
    encoded = msgspec.msgpack.encode(fields)
    frame = frame_of(RecordType.DELETE_FILE, encoded)
    assert decode_meta(frame) == DeleteFile(id="x", deleted_at_ms=1)
    assert frame.meta == encoded
    assert msgspec.msgpack.decode(frame.meta) == fields


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x82\xa2id\x07\xaddeleted_at_ms\x01",
        b"\x82\xa2id\xa2\xff\xfe\xaddeleted_at_ms\x01",
        b"\x82\xa2id\xa1x\xaddeleted_at_ms",
        b"\x82\xa2id\xa1x\xaddeleted_at_ms\x01\x00",
        b"\x83\xa2id\xa1x\xaddeleted_at_ms\x01\xa1z" + b"\x91" * 100_000,
    ],
    ids=["empty", "nil", "no-fields", "type", "utf8", "cut", "trailing", "nested"],
)
def test_decode_meta_of_wrong_structure_is_corrupt(encoded: bytes) -> None:
    """A meta that is not of its type is corruption, whatever the library calls it."""
    with pytest.raises(WalCorruptError) as raised:
        decode_meta(frame_of(RecordType.DELETE_FILE, encoded))
    assert raised.value.context["lsn"] == 5


@settings(max_examples=300, deadline=None, derandomize=True)
@given(record_type=st.integers(0, 6), noise=st.binary(max_size=60))
def test_decode_meta_of_noise_raises_errors_of_the_log_only(record_type: int, noise: bytes) -> None:
    """Arbitrary meta is decoded or refused; no other error comes out."""
    try:
        meta = decode_meta(frame_of(record_type, noise))
    except (WalCorruptError, WalFormatError):
        return
    assert isinstance(meta, STRUCTURES[RecordType(record_type)])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(meta=METAS, data=st.data())
def test_decode_meta_of_damaged_meta_raises_errors_of_the_log_only(
    meta: Meta, data: st.DataObject
) -> None:
    """Damage that a forged checksum hides is decoded or refused; no other error comes out."""
    record_type, encoded = encode_meta(meta)
    at = data.draw(st.integers(0, len(encoded) - 1))
    damaged = encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[at + 1 :]
    try:
        decoded = decode_meta(frame_of(record_type, damaged))
    except WalCorruptError:
        return
    assert type(decoded) is type(meta)
