"""A node with files of every sort, at rest or killed, to be damaged."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from dfs.core.config import Config
from dfs.services.dropping import drop_copy, drop_segment
from dfs.wiring import Services, open_services
from tests.services.conftest import make_config, store_bytes
from tests.services.dropped import decide
from tests.services.replicated import replicate

PARTS = ("wal", "primary", "index", "replica1")
SEGMENT_BYTES = 1 << 13


@dataclass(frozen=True, slots=True)
class Template:
    """A node as it lies on the disk.

    Attributes:
        files: id -> SHA-256 of each file that can be read. trash: ids of those in the trash.
        has_replica: whether another store has all of it. is_killed: or was closed in good order.
        index_url: of its index in PostgreSQL; None: it is in SQLite, among the files.
    """

    directory: Path
    files: dict[str, str]
    trash: frozenset[str]
    has_replica: bool
    is_killed: bool
    index_url: str | None = None

    def config(self, directory: Path) -> Config:
        """Return the settings of a copy."""
        return config_of(directory, has_replica=self.has_replica, index_url=self.index_url)

    def copy(self, directory: Path) -> None:
        """Make a copy to be damaged."""
        for name in PARTS:
            if (self.directory / name).exists():
                shutil.copytree(self.directory / name, directory / name, symlinks=True)

    def paths(self) -> list[str]:
        """Return the files of the node, relative, sorted."""
        found = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.directory)) for path in found)


def config_of(directory: Path, *, has_replica: bool, index_url: str | None = None) -> Config:
    """Return the settings of a node that has all of its parts in one directory."""
    replicas = (("replica1", str(directory / "replica1")),) if has_replica else ()
    return replace(
        make_config(directory, index_url or f"sqlite:///{directory / 'index' / 'dfs.db'}"),
        wal_segment_bytes=SEGMENT_BYTES,
        wal_preallocate_bytes=1 << 12,
        inline_blob_bytes_max=2000,
        reserve_bytes=0,
        reserve_inodes=0,
        replica_timeout_s=10.0,
        replicas=replicas,
    )


def build(
    directory: Path, *, has_replica: bool, is_killed: bool, index_url: str | None = None
) -> Template:
    """Build a node: several segments, one of them dropped, blob files, a trash, quarantines."""
    work = directory / "work"
    work.mkdir(parents=True)
    node = open_services(config_of(work, has_replica=has_replica, index_url=index_url))
    rng = random.Random(1)
    ids = {"empty": _store(node, "empty", b"")}
    for number in range(12):
        ids[f"small{number}"] = _store(node, f"small{number}", rng.randbytes(1200))
    ids["large"] = _store(node, "large", rng.randbytes(5000))
    ids["blocks"] = _store(node, "blocks", rng.randbytes((1 << 20) + 3000))
    if has_replica:
        replicate(node)
    drop = decide(node, 1)
    assert drop_segment(node.log, drop)
    node.files.delete(ids["small7"])
    node.files.update(ids["small8"], {"key": "renamed"})
    ids["last"] = _store(node, "last", rng.randbytes(700))
    if has_replica:
        replicate(node)
        assert drop_copy(node.log, node.stores.replicas["replica1"], 1, node.log.position)
    for name in ("wal", "primary"):
        (work / name / "damaged").mkdir(exist_ok=True)
        (work / name / "damaged" / "old").write_bytes(rng.randbytes(600))
    (work / "primary" / "tmp" / "1-00ff").write_bytes(rng.randbytes(600))
    files = {file.id: _digest(node, file.id) for file in node.files.list(limit=100).files}
    trash = frozenset(file.id for file in node.files.list(limit=100, deleted=True).files)
    template = Template(directory / "rest", files, trash, has_replica, is_killed, index_url)
    template.directory.mkdir()
    if not is_killed:
        node.close()
    replace(template, directory=work).copy(template.directory)
    if is_killed:
        node.close()
    return template


def _store(node: Services, key: str, content: bytes) -> str:
    return store_bytes(node, key, content).files[0].id


def _digest(node: Services, file_id: str) -> str:
    download = node.files.open(file_id)
    try:
        return hashlib.sha256(b"".join(download.read(0, download.file.size))).hexdigest()
    finally:
        download.close()
