"""The write-ahead log: its format, byte by byte.

All integers are little-endian. CRC32 is the one of zlib, gzip and PNG (ISO-HDLC, polynomial
0x04C11DB7 reflected). Format version 1. `tests/data/wal/` holds a golden segment of each version.

Files
    wal.active                  the open segment
    wal.next                    the one after it, complete with header, in the middle of a rotation
    segments/NNNNNNNNNN.wal     sealed segments, named by their id in ten decimal digits; or stubs
    control                     shared state of the node's processes (`control.py`)
    damaged/                    bytes that repair cut off

Segment
    offset  size  field
         0     8  magic, b"dfs-wal\\n"
         8     4  format version
        12     4  header length: offset of the first record, 80
        16     8  segment id: 1, 2, 3, ... without holes
        24    16  cluster id
        40     8  LSN of the first record
        48     8  end offset of the previous segment: its bytes from there on are never read
        56     8  last LSN of the previous segment: always the first LSN less one
        64     8  time of creation, milliseconds since 1970
        72     4  zero
        76     4  CRC32 of the bytes 0 to 75
        80        records, one behind the other, then zeros to the end of the file

Record
    offset  size  field
         0     4  length: bytes that the CRC32 covers, so the record takes 8 + length
         4     4  CRC32 of everything behind it in this record
         8     8  LSN: one more than that of the record before
        16     1  type
        17     1  flags: CONTINUES, COMMIT_START
        18     4  length of meta
        22        meta: a MessagePack map, one structure a type (`record.py`)
                  data: the rest; the bytes of an inline blob

A record is valid if and only if its length is at least 14 and at most `RECORD_BYTES_MAX` and ends
within the file; its CRC32 fits; its LSN is the one expected; and meta ends within the record.

A sealed segment whose content is not needed any more is replaced by a *stub*: its header, as it
was, and one record, DropSegment, with which the file ends. The record has the LSN of the segment's
first record, no flag but COMMIT_START and no data. It names this very segment, its first and last
LSN and where it ended, as the next segment's header does, too. A stub is shorter than 4096 bytes,
and its segment was longer: a sealed segment that is too short is a stub if and only if all this
holds; else it is damaged. Reading a stub gives its one record, then that behind the segment's last
LSN. In any other place a DropSegment names an older segment, which may be replaced from then on.

A stub says by `moved_lsn` up to where the log has what was still needed of the segment. A log that
ends before cannot do without the segment: for it, the stub is no copy.

A *change* is one record, or several of which all but the last carry CONTINUES: it happens as a
whole or not at all. A *commit* is one or more changes appended by one write and made durable by one
sync. Its first record carries COMMIT_START: whoever wrote it had synced everything before it, which
is how a reader tells a torn write (nothing durable behind it) from damage to what was durable.

Reading ends in one of three ways (`reader.Outcome`): a clean end (zeros, or the end of the file, or
the end named by the next segment's header and, in its place, a stub), a torn tail (only in the
newest segment), corruption (everything else). Records are never skipped.
"""

from __future__ import annotations
