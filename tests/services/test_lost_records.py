"""A log that is sound, but older than what was acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.core.errors import WalGapError
from tests.services.conftest import Opener, list_keys, store_bytes


def test_start_with_an_older_copy_of_the_log_refuses(open_node: Opener, tmp_path: Path) -> None:
    """A log that ends cleanly before the index does lacks acknowledged changes: dfs stops."""
    active = tmp_path / "wal" / "wal.active"
    node = open_node()
    store_bytes(node, "old", b"old")
    old = active.read_bytes()
    store_bytes(node, "new", b"new")
    new = active.read_bytes()
    expected = list_keys(node)
    node.close()
    (tmp_path / "wal" / "control").unlink()

    active.write_bytes(old)
    with pytest.raises(WalGapError, match=r"LSN 2, but 4 was acknowledged"):
        open_node()
    active.write_bytes(new)
    assert list_keys(open_node()) == expected
