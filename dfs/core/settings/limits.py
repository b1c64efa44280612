"""How large things may be, and how much of anything."""

from __future__ import annotations

from dfs.core.parsers import parse_int, parse_rate
from dfs.core.settings.setting import KIB, MIB, Setting

LIMITS: tuple[Setting, ...] = (
    Setting(
        "DFS_INLINE_BLOB_BYTES_MAX",
        "inline_blob_bytes_max",
        parse_int(0, MIB),
        str(64 * KIB),
        "blobs up to this many bytes live inside the log, larger ones in a file of their own",
    ),
    Setting(
        "DFS_UPLOAD_BYTES_MAX",
        "upload_bytes_max",
        parse_int(0),
        "0",
        "largest accepted file in bytes; 0 = as large as the disk allows",
    ),
    Setting(
        "DFS_NAME_BYTES_MAX",
        "name_bytes_max",
        parse_int(1, 1024),
        "1024",
        "bytes of UTF-8 that the name of a file may have",
    ),
    Setting(
        "DFS_METADATA_BYTES_MAX",
        "metadata_bytes_max",
        parse_int(0, 8192),
        "8192",
        "bytes of UTF-8 that all names and values of a file's own metadata may have",
    ),
    Setting(
        "DFS_FORM_FILES_MAX",
        "form_files_max",
        parse_int(1, 100),
        "100",
        "files that one form may have",
    ),
    Setting(
        "DFS_FORM_FIELD_BYTES_MAX",
        "form_field_bytes_max",
        parse_int(64, MIB),
        "65536",
        "bytes of each other field of a form",
    ),
    Setting(
        "DFS_UPLOADS_PER_CALLER_MAX",
        "uploads_per_caller_max",
        parse_int(0),
        "128",
        "uploads that a caller (a key; without one, an address) may have in flight in each process; then 429. 0 = no limit",
    ),
    Setting(
        "DFS_RATE_PER_CALLER",
        "rate_per_caller",
        parse_rate,
        "",
        "requests that a caller may make of all processes of the node, such as `1000/second` or `5000/minute`; then 429. Unset: as many as the node can answer",
    ),
    Setting(
        "DFS_QUOTA_BYTES",
        "quota_bytes",
        parse_int(0),
        "0",
        "bytes that all files together may have, those in the trash included; 0 = no limit",
    ),
    Setting(
        "DFS_DELETE_GRACE_S",
        "delete_grace_s",
        parse_int(0),
        str(7 * 86400),
        "seconds for which a deleted file stays in the trash, from where it can be restored; 0 = not at all. Blob files that nobody knows are put aside at that age, but not before an hour",
    ),
    Setting(
        "DFS_WAL_SEGMENT_BYTES",
        "wal_segment_bytes",
        parse_int(64 * KIB, 1 << 31),
        str(64 * MIB),
        "size at which a segment of the log is sealed and the next begun",
    ),
    Setting(
        "DFS_WAL_PREALLOCATE_BYTES",
        "wal_preallocate_bytes",
        parse_int(0),
        str(4 * MIB),
        "zeros written ahead of the tail of the log, so that a sync need not grow the file",
    ),
    Setting(
        "DFS_COMMIT_BATCH_BYTES_MAX",
        "commit_batch_bytes_max",
        parse_int(MIB),
        str(8 * MIB),
        "bytes of log that one group commit takes at most",
    ),
    Setting(
        "DFS_COMMIT_BATCH_COUNT_MAX",
        "commit_batch_count_max",
        parse_int(1),
        "256",
        "changes that one group commit takes at most",
    ),
    Setting(
        "DFS_COMMIT_GATHER_US",
        "commit_gather_us",
        parse_int(0, 1_000_000),
        "10000",
        "microseconds a group commit waits at most for changes already on their way; never waits for a lone one",
    ),
    Setting(
        "DFS_RESERVE_BYTES",
        "reserve_bytes",
        parse_int(0),
        str(256 * MIB),
        "bytes that uploads leave free on each disk of the log, the primary and the index, so that deletes and the log go on. Uploads in flight may eat 1 MiB of it for each thread; 0 = none",
    ),
    Setting(
        "DFS_RESERVE_INODES",
        "reserve_inodes",
        parse_int(0),
        "1000",
        "inodes that uploads leave free on those disks; 0 = none",
    ),
    Setting(
        "DFS_TMP_AGE_S",
        "tmp_age_s",
        parse_int(60),
        "86400",
        "age in seconds after which a temporary file that nobody writes is swept while the node runs",
    ),
)
