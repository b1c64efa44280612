"""The trash, on both databases."""

from __future__ import annotations

import pytest

from dfs.core.errors import NoSuchFileError, PreconditionFailedError, WalCorruptError
from dfs.services import changes
from dfs.services.changes import ANY_ETAG
from dfs.services.command import Draft
from dfs.wal.record import PutFile
from dfs.wiring import Services
from tests.services.conftest import Opener, list_whole, lose_index, read_bytes, store_bytes
from tests.services.dropped import Append
from tests.services.recount import check_figures

GRACE_S = 100
NOW_MS = 1_700_000_000_000


def set_clock(monkeypatch: pytest.MonkeyPatch, moment_ms: int) -> None:
    """Let changes take it for that moment."""
    monkeypatch.setattr(changes, "now_ms", lambda: moment_ms)


def test_restore_within_the_grace_only(open_node: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the last millisecond of the grace a file comes back, and not any more then."""
    node = open_node(delete_grace_s=GRACE_S)
    set_clock(monkeypatch, NOW_MS)
    first, second = (store_bytes(node, key, key.encode()).files[0] for key in "ab")
    node.files.delete(first.id)
    node.files.delete(second.id)
    set_clock(monkeypatch, NOW_MS + 1000 * GRACE_S - 1)
    node.files.restore(first.id)
    set_clock(monkeypatch, NOW_MS + 1000 * GRACE_S)
    with pytest.raises(NoSuchFileError):
        node.files.restore(second.id)
    assert read_bytes(node, first.id) == b"a"


def test_restore_of_another_version_is_refused(node: Services) -> None:
    """With entity tags the file comes back only if it is the one that is meant."""
    file = store_bytes(node, "a", b"a").files[0]
    node.files.delete(file.id)
    with pytest.raises(PreconditionFailedError):
        node.files.restore(file.id, if_match={"other"})
    assert node.files.restore(file.id, if_match={ANY_ETAG}).files[0].etag == file.etag


def test_restore_after_expiry_makes_the_file_last(
    node: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expiry that passed in the trash would take the file away at once; a later one stays."""
    set_clock(monkeypatch, NOW_MS)
    expiries = (NOW_MS + 10, NOW_MS + 10**12)
    files = [store_bytes(node, "a", b"a", expires_at_ms=at_ms).files[0] for at_ms in expiries]
    for file in files:
        node.files.delete(file.id)
    set_clock(monkeypatch, NOW_MS + 10)
    restored = [node.files.restore(file.id).files[0] for file in files]
    assert [file.expires_at_ms for file in restored] == [None, NOW_MS + 10**12]
    assert [file.updated_at_ms for file in restored] == [file.updated_at_ms for file in files]


def test_trash_survives_the_loss_of_the_index(open_node: Opener) -> None:
    """What is in the trash stands in the log, and its bytes are kept."""
    node = open_node()
    kept = [store_bytes(node, "kept", bytes(size)).files[0] for size in (5, 100_000)]
    for file in kept:
        node.files.update(file.id, {"key": "renamed"})
        node.files.delete(file.id)
    before = list_whole(node, deleted=True)
    lose_index(node)
    rebuilt = open_node()
    assert list_whole(rebuilt, deleted=True) == before
    assert {file.key for file in before} == {"renamed"}
    check_figures(rebuilt)
    for file in kept:
        rebuilt.files.restore(file.id)
        assert read_bytes(rebuilt, file.id) == bytes(file.size)


def test_log_with_a_file_whose_bytes_nobody_put_is_refused(open_node: Opener) -> None:
    """A rebuild may meet a blob late, but in the end every blob that a file needs must be there."""
    node = open_node()
    record = PutFile("0" * 26, "default", "a", 1, b"d" * 32, "text/plain", NOW_MS)
    node.committer.submit(Append(Draft(record)))
    node.close()  # an index that is in use is not rebuilt to see whose fault it is
    for _ in range(2):
        with pytest.raises(WalCorruptError, match="never put"):
            open_node()
