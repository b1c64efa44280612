"""What reading the index finds, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dfs.core.errors import IndexDamagedError
from dfs.core.model import File, Segment
from dfs.db.repository import IndexRepository, prefix_end
from dfs.db.rows import FILE_INFO_COLUMNS
from dfs.db.session import IndexDatabase
from tests.db.conftest import (
    NODE_ID,
    info_of,
    make_blob,
    make_digest,
    make_extents,
    make_file,
    put_files,
)

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=4)
AWKWARD_KEYS = [
    "a", "A", "aa", "ab", "b", "z", "Z", "_", "é", "e\u0301", "\ud7ff", "\ue000", "\uffff",
    "\U00010000", "\U0010ffff", "\U0010ffff\U0010ffff", "a\U0010ffff", "a\U0010ffffb", "%", "a%b",
    "*", "[", "\x01", "\x7f", "a b", "ﬀ", "ß", "ss", "I",
]  # fmt: skip


def list_keys(repository: IndexRepository, **arguments: object) -> list[str]:
    """Return the keys of a listing."""
    wanted: dict[str, object] = {"bucket": "default", "after": None, "limit": 1000, "now_ms": 0}
    files = repository.list_files(**{**wanted, **arguments})  # type: ignore[arg-type]
    return [file.key for file in files]


def test_find_file_absent_returns_none(repository: IndexRepository) -> None:
    """Nothing is found in an empty index."""
    assert repository.find_file("01K", 0) is None
    assert repository.find_download("01K", 0) is None
    assert repository.find_blob(make_digest(1)) is None
    assert repository.node_state() is None
    assert repository.list_segments(limit=5) == []


def test_find_file_expired_returns_none(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A file is gone from the very millisecond at which it expires."""
    file = make_file(1, expires_at_ms=1000)
    with database.begin() as transaction:
        transaction.put_file(file)
        transaction.put_blob(make_blob(1))
        transaction.commit()
    assert repository.find_file(file.id, 999) == file
    assert repository.find_file(file.id, 1000) is None
    assert repository.find_download(file.id, 999) == (file, (make_blob(1),))
    assert repository.find_download(file.id, 1000) is None
    assert list_keys(repository, now_ms=999) == [file.key]
    assert list_keys(repository, now_ms=1000) == []


def test_find_download_with_extents_returns_blobs_in_order(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A composed file comes with the blob of each extent, repeats included."""
    file = make_file(9, extents=make_extents(3, 1, 3, 2), size=4 << 40)
    with database.begin() as transaction:
        transaction.put_file(file)
        for number in (1, 2, 3):
            transaction.put_blob(make_blob(number, size=1 << 41))
        transaction.commit()
    expected = tuple(make_blob(number, size=1 << 41) for number in (3, 1, 3, 2))
    assert repository.find_download(file.id, 0) == (file, expected)


def test_find_download_with_very_many_extents_finds_all(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A file of thousands of parts needs several statements and is whole all the same."""
    numbers = range(3000)
    file = make_file(9000, extents=make_extents(*numbers), size=3000 << 40)
    blobs = tuple(make_blob(number, size=1 << 41) for number in numbers)
    with database.begin() as transaction:
        transaction.put_file(file)
        for blob in blobs:
            transaction.put_blob(blob)
        transaction.commit()
    assert repository.find_download(file.id, 0) == (file, blobs)


@pytest.mark.parametrize(
    "sizes",
    [{"size": (4 << 40) + 1}, {"size": (4 << 40) - 1}, {"blob_size": (1 << 40) + 9}],
    ids=["longer", "shorter", "beyond a blob"],
)
def test_find_download_with_extents_of_another_size_is_damage(
    database: IndexDatabase, repository: IndexRepository, sizes: dict[str, int]
) -> None:
    """What the extents give is as long as the file, and lies within the blobs."""
    sizes = {"size": 4 << 40, "blob_size": 1 << 41, **sizes}
    file = make_file(9, extents=make_extents(3, 1, 3, 2), size=sizes["size"])
    with database.begin() as transaction:
        transaction.put_file(file)
        for number in (1, 2, 3):
            transaction.put_blob(make_blob(number, size=sizes["blob_size"]))
        transaction.commit()
    with pytest.raises(IndexDamagedError):
        repository.find_download(file.id, 0)


@pytest.mark.parametrize("file", [make_file(1), make_file(2, extents=make_extents(3, 4))])
def test_find_download_without_its_blob_is_an_error(
    database: IndexDatabase, repository: IndexRepository, file: File
) -> None:
    """A file whose bytes the index does not know is reported, not served empty."""
    with database.begin() as transaction:
        transaction.put_file(file)
        transaction.put_blob(make_blob(3))
        transaction.commit()
    with pytest.raises(IndexDamagedError):
        repository.find_download(file.id, 0)


def test_list_files_orders_by_code_point_and_then_id(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """The order is that of code points, on any database and in any locale."""
    files = [make_file(number, key) for number, key in enumerate(AWKWARD_KEYS * 2)]
    put_files(database, *files)
    found = repository.list_files(bucket="default", after=None, limit=1000, now_ms=0)
    in_order = sorted(files, key=lambda file: (file.key, file.id))
    assert list(map(info_of, found)) == list(map(info_of, in_order))


def test_list_files_page_by_page_gives_each_file_once(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Pages of any size follow each other without gap or repeat, also among equal keys."""
    put_files(database, *(make_file(number, f"k{number // 7}") for number in range(50)))
    for limit in (1, 3, 50):
        after: tuple[str, str] | None = None
        found: list[str] = []
        while page := repository.list_files(
            bucket="default", after=after, limit=limit, prefix="k", now_ms=0
        ):
            assert len(page) <= limit
            found += [file.id for file in page]
            after = (page[-1].key, page[-1].id)
        assert len(found) == len(set(found)) == 50


def test_list_files_other_bucket_is_not_listed(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A listing shows one bucket only."""
    put_files(database, make_file(1, "a"), make_file(2, "b", bucket="other"))
    assert list_keys(repository) == ["a"]
    assert list_keys(repository, bucket="other") == ["b"]


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    keys=st.lists(KEYS, max_size=12),
    choice=st.tuples(
        st.one_of(KEYS, st.just("")),
        st.one_of(KEYS, st.none()),
        st.one_of(st.tuples(KEYS, st.just("01K")), st.none()),
    ),
)
@example(keys=AWKWARD_KEYS, choice=("\ud7ff", None, None))
@example(keys=AWKWARD_KEYS, choice=("\U0010ffff", None, None))
@example(keys=AWKWARD_KEYS, choice=("a\U0010ffff", None, None))
@example(keys=AWKWARD_KEYS, choice=("a", "ab", ("aa", "")))
@example(keys=AWKWARD_KEYS, choice=("", "a", ("b", "")))
@example(keys=AWKWARD_KEYS, choice=("a%", None, None))
def test_list_files_matches_a_filtered_list(
    database: IndexDatabase,
    repository: IndexRepository,
    keys: list[str],
    choice: tuple[str, str | None, tuple[str, str] | None],
) -> None:
    """Prefix, name and cursor choose what Python's own comparison of texts chooses."""
    prefix, name, after = choice
    files = [make_file(number, key) for number, key in enumerate(keys)]
    with database.begin() as transaction:
        for number in range(len(AWKWARD_KEYS)):
            transaction.remove_file(make_file(number).id)
        for file in files:
            transaction.put_file(file)
        transaction.commit()
    found = repository.list_files(
        bucket="default", after=after, limit=1000, prefix=prefix, name=name, now_ms=0
    )
    assert list(map(info_of, found)) == sorted(
        (
            info_of(file)
            for file in files
            if file.key.startswith(prefix)
            and (name is None or file.key == name)
            and (after is None or (file.key, file.id) > after)
        ),
        key=lambda file: (file.key, file.id),
    )


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("a", "b"),
        ("a/", "a0"),
        ("\ud7ff", "\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff\U0010ffff", None),
        ("\uffff", "\U00010000"),
    ],
)
def test_prefix_end_is_the_first_text_behind(prefix: str, end: str | None) -> None:
    """The end of a range of keys is a text that can be encoded, or there is none."""
    assert prefix_end(prefix) == end


def test_list_segments_pages_by_id(database: IndexDatabase, repository: IndexRepository) -> None:
    """Sealed segments come in order, from behind a given one, so many at a time."""
    segments = [Segment(number, number, number, 100, 5) for number in (3, 1, 2, 10)]
    with database.begin() as transaction:
        for segment in segments:
            transaction.put_segment(segment)
        transaction.commit()
    assert [segment.id for segment in repository.list_segments(limit=3)] == [1, 2, 3]
    assert repository.list_segments(after=3, limit=3) == [segments[3]]


@pytest.mark.parametrize("column", FILE_INFO_COLUMNS)
def test_list_files_shows_no_row_that_dfs_cannot_have_written(sqlite_url: str, column: str) -> None:
    """SQLite has no types and no checksums: a damaged row is reported, not shown."""
    database = IndexDatabase(url=sqlite_url, node_id=NODE_ID)
    database.open()
    database.migrate()
    put_files(database, make_file(1, "a"), make_file(2, "b"))
    with database.begin() as transaction:
        database.write(f"UPDATE dfs_file SET {column} = x'00' WHERE key = 'b'")
        transaction.commit()
    with pytest.raises(IndexDamagedError):
        list_keys(
            IndexRepository(database), deleted_after_ms=-1 if column == "deleted_at" else None
        )
    database.close()


def test_list_files_on_sqlite_reads_one_range_of_the_index(sqlite_url: str) -> None:
    """No page sorts, and none reads from the start, nor what is in the trash or is not."""
    database = IndexDatabase(url=sqlite_url, node_id="node-1")
    database.open()
    database.migrate()
    statements = database.statements
    for (deleted, _), sql in statements.list_files.items():
        plan = str(database.read_all(f"EXPLAIN QUERY PLAN {sql}", ["b"] * sql.count("?")))
        index = "dfs_file_trash" if deleted else "dfs_file_live"
        assert f"USING INDEX {index} (bucket=? AND (key,id)>(?,?)" in plan
        assert "TEMP B-TREE" not in plan
    database.close()


def test_garbage_on_sqlite_is_found_by_its_indexes(sqlite_url: str) -> None:
    """Among a million files, those that have expired and those to be purged come at once."""
    database = IndexDatabase(url=sqlite_url, node_id="node-1")
    database.open()
    database.migrate()
    statements = database.statements
    for sql, index in (
        (statements.expired_files, "SEARCH dfs_file USING INDEX dfs_file_expiry (expires_at<?)"),
        (statements.purgeable_files, "SEARCH dfs_file USING INDEX dfs_file_purge (deleted_at<?)"),
        (statements.unused_blobs, "dfs_blob USING COVERING INDEX dfs_blob_unused"),
        (statements.nowhere_blob, "dfs_blob USING INDEX dfs_blob_nowhere"),
        (statements.key_exists, "SEARCH dfs_file USING INDEX dfs_file_live (bucket=? AND key=?)"),
    ):
        plan = str(database.read_all(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?")))
        assert index in plan, sql
        assert "TEMP B-TREE" not in plan
    database.close()
