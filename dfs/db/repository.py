"""Reading the index: rows straight into the values of `core.model`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dfs.core.access import Key
from dfs.core.errors import IndexDamagedError
from dfs.core.model import (
    REMOVALS,
    Blob,
    Debt,
    DebtKind,
    DebtSummary,
    File,
    FileInfo,
    NodeState,
    Segment,
    SegmentUse,
    StoreState,
    Usage,
)
from dfs.db.rows import (
    Row,
    read_blob,
    read_debt,
    read_debt_sum,
    read_download,
    read_file,
    read_file_infos,
    read_key,
    read_node_state,
    read_number,
    read_segment,
    read_segment_use,
    read_store,
    read_text,
    read_unit,
    read_usage,
)
from dfs.db.session import IndexDatabase
from dfs.db.statements import LIST_ENDS, NODE_BUCKET
from dfs.db.tables import BLOBS, FILES, KEYS, chunks

_CODE_POINT_MAX = 0x10FFFF
_SURROGATE_FIRST = 0xD800
_SURROGATE_LAST = 0xDFFF


class IndexRepository:
    """Reads, in whichever thread. Every method raises MetadataError.

    Args:
        database: open by the time of the first call.
    """

    def __init__(self, database: IndexDatabase) -> None:
        self._database = database
        self._statements = database.statements

    def find_file(self, file_id: str, now_ms: int) -> File | None:
        """Return the file; None if there is none, it is in the trash, or has expired by then."""
        file = self._database.find(self._statements.file, (file_id,), read_file)
        return file if file is not None and _is_live(file, now_ms) else None

    def file_names(self, file_ids: Collection[str]) -> dict[str, str]:
        """Return id -> name of those of these files that are there, in the trash or not."""
        names: dict[str, str] = {}
        for chunk in chunks(list(file_ids)):
            sql = self._statements.select_in(FILES, len(chunk))
            files = self._database.select(sql, chunk, read_file)
            names.update((file.id, file.key) for file in files)
        return names

    def find_download(self, file_id: str, now_ms: int) -> tuple[File, tuple[Blob, ...]] | None:
        """Return a file with the blob of each of its extents, in order, repeats included.

        Args:
            now_ms: a file that has expired by then counts as absent, as does one in the trash.

        Returns:
            None when there is no such file. A file without extents has exactly one blob.

        Raises:
            IndexDamagedError: the index does not know the bytes of the file, or not their size.
        """
        found = self._database.find(self._statements.download, (file_id,), read_download)
        if found is None or not _is_live(found[0], now_ms):
            return None
        file, blob = found
        if file.extents:
            return file, self._find_blobs(file)
        if blob is None:
            raise self._unknown_bytes(file)
        if file.size != blob.size:  # the database has no checksums of its own
            raise self._database.damaged("A file has another size than its bytes.", file_id=file_id)
        return file, (blob,)

    def find_blob(self, digest: bytes) -> Blob | None:
        """Return the blob of that digest, or None."""
        return self._database.find(self._statements.blob, (digest,), read_blob)

    def list_blobs(self, *, after: bytes = b"", limit: int) -> list[Blob]:
        """Return blob files with digests above `after`, by digest, `limit` at most.

        Those that no file refers to any more are among them; inline blobs are not.
        """
        return self._database.select(self._statements.blob_files, (after, limit), read_blob)

    def blob_file_totals(self) -> tuple[int, int]:
        """Return how many blob files there are, and their bytes. Reads all of a small index."""
        count, size = self._database.read_one(self._statements.blob_file_totals)
        return count, int(size)

    def list_files(
        self,
        *,
        bucket: str,
        after: tuple[str, str] | None,
        limit: int,
        prefix: str = "",
        name: str | None = None,
        now_ms: int,
        deleted_after_ms: int | None = None,
    ) -> Sequence[FileInfo]:
        """Return files that have not expired, ordered by (key, id), both by code point.

        Args:
            after: only files strictly behind this (key, id).
            limit: files at most.
            prefix: only keys that begin so.
            name: only files of exactly this key.
            deleted_after_ms: instead of those that can be found, files in the trash, deleted after
                this moment.
        """
        if name is not None and not name.startswith(prefix):
            return []
        first = (prefix if name is None else name, "")
        start = first if after is None else max(first, after)
        is_deleted = deleted_after_ms is not None
        moment_ms = now_ms if deleted_after_ms is None else deleted_after_ms
        open_end, below, up_to = LIST_ENDS
        end = prefix_end(prefix)
        if name is not None:
            ending, ends = up_to, [name]
        elif end is not None:
            ending, ends = below, [end]
        else:
            ending, ends = open_end, []
        sql = self._statements.list_files[is_deleted, ending]
        parameters = (bucket, *start, moment_ms, *ends, limit)
        return self._database.select_all(sql, parameters, read_file_infos)

    def expired_files(self, *, now_ms: int, limit: int) -> list[File]:
        """Return files that have expired by then and are not in the trash, the oldest first."""
        return self._database.select(self._statements.expired_files, (now_ms, limit), read_file)

    def purgeable_files(self, *, deleted_by_ms: int, limit: int) -> list[File]:
        """Return files that were put into the trash by then, the oldest first."""
        parameters = (deleted_by_ms, limit)
        return self._database.select(self._statements.purgeable_files, parameters, read_file)

    def unused_blobs(self, *, limit: int) -> list[bytes]:
        """Return digests of blob files that no file refers to, not even one in the trash."""
        return self._database.select(self._statements.unused_blobs, (limit,), read_unit)

    def usage(self) -> tuple[Usage, Mapping[str, Usage]]:
        """Return what the blobs of the node use, and what the files of each bucket do."""
        parameters = (self._database.node_id,)
        found = dict(self._database.select(self._statements.usages, parameters, read_usage))
        return found.pop(NODE_BUCKET, Usage()), found

    def dead_bytes(self) -> int:
        """Return how many bytes of the log are records that are not the truth any more."""
        node_id = self._database.node_id
        return int(self._database.read_one(self._statements.dead_bytes, (node_id,))[0])

    def compactable_segments(self, *, dead_permille_min: int) -> list[tuple[Segment, SegmentUse]]:
        """Return sealed segments that are dead to a higher share, tombstones included, by id.

        Args:
            dead_permille_min: thousandths of the segment's size.
        """
        parameters = (self._database.node_id, dead_permille_min)
        return self._database.select(self._statements.compactable, parameters, _read_compactable)

    def find_segment(self, segment_id: int) -> Segment | None:
        """Return a sealed segment of this node, or None."""
        found = self.list_segments(after=segment_id - 1, limit=1)
        return found[0] if found and found[0].id == segment_id else None

    def dropped_segment_ids(self) -> set[int]:
        """Return ids of segments of which nothing is needed any more, stubs or not yet."""
        parameters = (self._database.node_id,)
        return set(
            self._database.select(self._statements.dropped_segments, parameters, read_number)
        )

    def undropped_segment_ids(self) -> set[int]:
        """Return ids of segments that some store has yet to replace by a stub."""
        return {int.from_bytes(unit, "big") for unit in self._units_owed(DebtKind.DROP_SEGMENT)}

    def units_to_remove(self) -> set[bytes]:
        """Return digests of dropped blobs that some store has yet to remove."""
        return {unit for kind in REMOVALS for unit in self._units_owed(kind)}

    def _units_owed(self, kind: DebtKind) -> list[bytes]:
        parameters = (self._database.node_id, int(kind))
        return self._database.select(self._statements.units_owed, parameters, read_unit)

    def list_segments(self, *, after: int = 0, limit: int) -> list[Segment]:
        """Return sealed segments of this node with ids above `after`, by id, `limit` at most."""
        parameters = (self._database.node_id, after, limit)
        return self._database.select(self._statements.segments, parameters, read_segment)

    def node_state(self) -> NodeState | None:
        """Return how far the index has followed the log of this node; None: not begun."""
        parameters = (self._database.node_id,)
        return self._database.find(self._statements.node_state, parameters, read_node_state)

    def find_key(self, key_id: str) -> Key | None:
        """Return the API key of that id, or None."""
        return self._database.find(self._statements.select_in(KEYS, 1), (key_id,), read_key)

    def has_keys(self) -> bool:
        """Tell whether there is any API key, expired or not."""
        return self._database.read_one(self._statements.any_key) is not None

    def list_keys(self) -> list[Key]:
        """Return all API keys, by id."""
        return self._database.select(self._statements.keys, (), read_key)

    def store_states(self) -> dict[str, StoreState]:
        """Return name -> state of each store of this node that has been used, by name."""
        parameters = (self._database.node_id,)
        states = self._database.select(self._statements.stores, parameters, read_store)
        return {state.name: state for state in states}

    def find_debt(self, store: str, kind: DebtKind, unit: bytes) -> Debt | None:
        """Return what the store owes of that unit, or None if it owes nothing."""
        parameters = (self._database.node_id, store, int(kind), unit)
        return self._database.find(self._statements.debt, parameters, read_debt)

    def has_debt(self, store: str, kind: DebtKind, units: Sequence[bytes]) -> set[bytes]:
        """Return those of the units, all of one kind, that the store owes."""
        owed: set[bytes] = set()
        for chunk in chunks(units):
            parameters = (self._database.node_id, store, int(kind), *chunk)
            sql = self._statements.owed_in(len(chunk))
            owed.update(self._database.select(sql, parameters, read_unit))
        return owed

    def removals(self, store: str, digests: Sequence[bytes], *, begun: bool = False) -> list[Debt]:
        """Return what the store owes of the removal of these blob files.

        Args:
            begun: only removals that have begun.
        """
        kinds = (DebtKind.REMOVING_BLOB,) if begun else REMOVALS
        return [
            debt
            for kind in kinds
            for chunk in chunks(digests)
            for debt in self._database.select(
                self._statements.debts_in(len(chunk)),
                (self._database.node_id, store, int(kind), *chunk),
                read_debt,
            )
        ]

    def due_debts(self, store: str, *, now_ms: int, limit: int) -> list[Debt]:
        """Return debts of a store that may be tried by `now_ms`, the oldest first.

        When there are more than `limit`, those are left out that were owed last, and of those that
        had to wait, the ones that have waited for the shortest time.
        """
        whose = (self._database.node_id, store)
        parameters = (*whose, limit, *whose, now_ms, limit, limit)
        return self._database.select(self._statements.due_debts, parameters, read_debt)

    def summarize_debts(self) -> list[DebtSummary]:
        """Return what each store owes of each kind, by store and kind. Reads all debts."""
        node_id = self._database.node_id
        sums = self._database.select(self._statements.debt_sums, (node_id,), read_debt_sum)
        return [
            replace(each, last_error=self._last_error(each.store, each.kind))
            if each.failing
            else each
            for each in sums
        ]

    def _last_error(self, store: str, kind: DebtKind) -> str | None:
        parameters = (self._database.node_id, store, int(kind))
        return self._database.find(self._statements.last_error, parameters, read_text)

    def _unknown_bytes(self, file: File) -> IndexDamagedError:
        fault = "The index knows a file, and not where its bytes are."
        return self._database.damaged(fault, file_id=file.id)

    def _find_blobs(self, file: File) -> tuple[Blob, ...]:
        digests = file.blob_digests()
        found: dict[bytes, Blob] = {}
        for chunk in chunks(list(dict.fromkeys(digests))):
            sql = self._statements.select_in(BLOBS, len(chunk))
            blobs = self._database.select(sql, chunk, read_blob)
            found.update((blob.digest, blob) for blob in blobs)
        for digest in digests:
            if digest not in found:
                raise self._unknown_bytes(file)
        is_within = all(run.offset + run.length <= found[run.digest].size for run in file.extents)
        if not is_within or sum(run.length for run in file.extents) != file.size:
            raise self._database.damaged("A file has another size than its bytes.", file_id=file.id)
        return tuple(found[digest] for digest in digests)


def prefix_end(prefix: str) -> str | None:
    """Return the first text, by code point, behind all that begin with `prefix`.

    Returns:
        None when there is no such text: the prefix is empty or all U+10FFFF. Surrogates are no
        characters, so what follows U+D7FF is U+E000.
    """
    stem = prefix.rstrip(chr(_CODE_POINT_MAX))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if _SURROGATE_FIRST <= following <= _SURROGATE_LAST:
        following = _SURROGATE_LAST + 1
    return stem[:-1] + chr(following)


def _is_live(file: File, now_ms: int) -> bool:
    expires_at_ms = file.expires_at_ms
    return file.deleted_at_ms is None and (expires_at_ms is None or expires_at_ms > now_ms)


def _read_compactable(row: Row) -> tuple[Segment, SegmentUse]:
    return read_segment(("", *row[:5])), read_segment_use(row[5:])
