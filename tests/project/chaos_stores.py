"""Stores that things happen to: directories, one of them on a disk of its own, and a bucket."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from tests.mounts import BALLAST_NAME, mount, mount_memory, unmount
from tests.s3 import REGION, S3Server
from torture.node import empty_directory

Undo = Callable[[], None]
Fault = Callable[[], Undo | None]
"""Does something bad. Returns what ends it, or None if there is nothing to end."""
REMOUNT_PAUSE_S = 0.02


class NotNowError(Exception):
    """A fault cannot happen now: there is nothing for it, or another one is in its way."""


class Victim(Protocol):
    """A store, as those see it who harm it."""

    name: str

    def units(self, kind: str) -> list[str]:
        """Return the names of all it has in `blobs` or `segments`, relative to its top."""

    def read(self, unit: str) -> bytes:
        """Return the bytes of a unit. Raises OSError."""

    def spoil(self, unit: str, content: bytes) -> None:
        """Put other bytes into a unit."""

    def remove(self, unit: str) -> None:
        """Remove a unit."""

    def faults(self) -> Mapping[str, Fault]:
        """Return what can happen to the store as a whole, by name."""


def holds_whole(victim: Victim, unit: str) -> bool:
    """Tell whether a store has a blob whole."""
    try:
        return hashlib.sha256(victim.read(unit)).hexdigest() == unit.rpartition("/")[2]
    except OSError:
        return False


class Directory:
    """A store in a plain directory.

    Args:
        path: where the node looks for it.
        is_replica: it may be taken away as a whole.
    """

    def __init__(self, name: str, path: Path, *, is_replica: bool) -> None:
        self.name = name
        self.path = path
        self._is_replica = is_replica

    def units(self, kind: str) -> list[str]:
        """See `Victim`."""
        pattern = "blobs/*/*/*" if kind == "blobs" else "segments/*.wal"
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern))

    def read(self, unit: str) -> bytes:
        """See `Victim`."""
        return (self.path / unit).read_bytes()

    def spoil(self, unit: str, content: bytes) -> None:
        """See `Victim`. The file stays the same one, as on a disk that rots."""
        descriptor = os.open(self.path / unit, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content, 0)
        finally:
            os.close(descriptor)

    def remove(self, unit: str) -> None:
        """See `Victim`."""
        (self.path / unit).unlink()

    def faults(self) -> Mapping[str, Fault]:
        """See `Victim`."""
        if not self._is_replica:
            return {}
        return {"moved_away": self._move_away, "replaced_by_empty": self._replace}

    def _move_away(self) -> Undo:
        self._require_there()
        aside = self.path.with_name(f"{self.path.name}.away")
        self.path.rename(aside)

        def move_back() -> None:
            if self.path.exists():  # whoever made it broke a rule; the check at the end tells
                self.path.rename(self.path.with_name(f"{self.path.name}.intruder"))
            aside.rename(self.path)

        return move_back

    def _replace(self) -> None:
        self._require_there()
        aside = self.path.with_name(f"{self.path.name}.lost")
        self.path.rename(aside)
        self.path.mkdir()
        shutil.rmtree(aside)

    def _require_there(self) -> None:
        if not (self.path / "segments").is_dir():
            raise NotNowError


class OwnDisk(Directory):
    """A store on a disk of its own, which can be full, read-only and unmounted. Needs root.

    Args:
        disk: where its bytes are, as a file system in memory.
        size_bytes: of that.
    """

    def __init__(self, name: str, path: Path, *, disk: Path, size_bytes: int) -> None:
        super().__init__(name, path, is_replica=True)
        self._disk = disk
        disk.mkdir()
        path.mkdir()
        mount_memory(disk, size_bytes=size_bytes)
        mount("--bind", str(disk), str(path))

    def faults(self) -> Mapping[str, Fault]:
        """See `Victim`."""
        return {
            "unmounted": self._unmount,
            "read_only": self._make_read_only,
            "full": self._fill,
            "wiped": self._wipe,
        }

    def close(self) -> None:
        """Give the disk back; what is on it is gone."""
        for place in (self.path, self.path, self._disk):
            with suppress(subprocess.CalledProcessError):
                unmount(place)

    def _unmount(self) -> Undo:
        self._require_there()
        unmount(self.path)

        def put_back() -> None:
            mount("--bind", str(self._disk), str(self.path))

        return put_back

    def _make_read_only(self) -> Undo:
        """Make it read-only for all who open something from now on."""
        self._require_there()
        mount("--bind", str(self._disk), str(self.path))
        # Busy while somebody has a file open for writing there.
        while not _tries_mount("-o", "remount,bind,ro", str(self.path)):
            time.sleep(REMOUNT_PAUSE_S)
        return lambda: unmount(self.path)

    def _fill(self) -> Undo:
        self._require_there()
        ballast = self._disk / BALLAST_NAME
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            free = os.statvfs(self._disk)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize)
            while True:  # what others have given back meanwhile
                file.seek(0, os.SEEK_END)
                file.write(bytes(4096))
        return lambda: ballast.unlink(missing_ok=True)

    def _wipe(self) -> None:
        self._require_there()
        empty_directory(self.path)

    def _require_there(self) -> None:
        if not os.access(self.path / "segments", os.W_OK):
            raise NotNowError


class Bucket:
    """A store in a bucket.

    Args:
        server_pid: process of the S3 server.
    """

    def __init__(self, name: str, server: S3Server, *, server_pid: int) -> None:
        self.name = name
        self._bucket = server.new_bucket()
        self._client = server.client()
        self._server = server
        self._server_pid = server_pid
        self._is_stalled = False
        self.url = f"s3://{self._bucket}/dfs"

    def settings(self) -> dict[str, str]:
        """Return what a node must be told to reach it."""
        server = self._server
        return {
            "DFS_S3_ENDPOINT": server.endpoint,
            "DFS_S3_REGION": REGION,
            "DFS_S3_ACCESS_KEY_ID": server.access_key_id,
            "DFS_S3_SECRET_ACCESS_KEY": server.secret_access_key,
        }

    def units(self, kind: str) -> list[str]:
        """See `Victim`."""
        return [key for key, _ in self._list(f"{kind}/")]

    def read(self, unit: str) -> bytes:
        """See `Victim`."""
        self._require_awake()
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=f"dfs/{unit}")
            content: bytes = answer["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise OSError(str(error)) from error
        return content

    def spoil(self, unit: str, content: bytes) -> None:
        """See `Victim`."""
        self._require_awake()
        self._client.put_object(Bucket=self._bucket, Key=f"dfs/{unit}", Body=content)

    def remove(self, unit: str) -> None:
        """See `Victim`."""
        self._require_awake()
        self._client.delete_object(Bucket=self._bucket, Key=f"dfs/{unit}")

    def faults(self) -> Mapping[str, Fault]:
        """See `Victim`."""
        return {"server_hangs": self._stall, "bucket_emptied": self._wipe}

    def download(self, directory: Path) -> None:
        """Write what it holds to a directory, growing segments as one file each."""
        parts: dict[str, list[tuple[str, int]]] = {}
        wholes: set[str] = set()
        for unit, size in self._list(""):
            name, _, part = unit.partition(".parts/")
            if part:
                parts.setdefault(name, []).append((unit, size))
            elif name.startswith(("blobs/", "segments/")):
                wholes.add(name)
                _write(directory / name, [self.read(unit)])
        for name, found in parts.items():
            if name not in wholes:
                _write(directory / name, map(self.read, _leading_parts(found)))

    def _list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._require_awake()
        pages: Any = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=f"dfs/{prefix}"):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix("dfs/"), entry["Size"]

    def _stall(self) -> Undo:
        self._require_awake()
        os.kill(self._server_pid, signal.SIGSTOP)
        self._is_stalled = True

        def go_on() -> None:
            os.kill(self._server_pid, signal.SIGCONT)
            self._is_stalled = False

        return go_on

    def _wipe(self) -> None:
        for unit, _ in list(self._list("")):
            self.remove(unit)

    def _require_awake(self) -> None:
        if self._is_stalled:
            raise NotNowError


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Return the same bytes with a few bits changed."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed) if changed != content else flip_bits(content, rng)


def _leading_parts(parts: list[tuple[str, int]]) -> Iterator[str]:
    """Yield the parts of a growing segment up to the first that is missing or not full."""
    for number, (unit, size) in enumerate(sorted(parts)):
        if not unit.endswith(f"/{number:06d}"):
            return
        yield unit
        if size != 1 << 20:
            return


def _write(path: Path, pieces: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _tries_mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
