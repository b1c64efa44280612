"""Versity's S3 gateway over a directory: it answers when the page cache has a file."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3

from bench.errors import BenchError
from bench.load import Destination
from bench.servers import HOST, Server, base_environ, find_free_port, get, run, traced
from bench.stores import PAGE_NAMES, Kind, Store, find_program, list_by_pages

PROGRAM = "versitygw"
MODULE = "github.com/versity/versitygw"
BUCKET = "files"
KEY, SECRET = "bench", "bench-bench"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
        }
    ],
}
"""Everyone may do everything with the bucket: requests need no signature, as those to dfs."""


@contextlib.contextmanager
def run_versitygw(directory: Path, trace: bool) -> Iterator[Store]:
    """Run the gateway with its data in `directory`, which must be on a file system with xattrs."""
    program = find_program(PROGRAM)
    if program is None:
        raise BenchError(f"{PROGRAM} is not installed")
    port, root = find_free_port(), directory / "root"
    root.mkdir()
    where = ["--port", f"{HOST}:{port}", "--access", KEY, "--secret", SECRET]
    options = ["--keep-alive", "--quiet", "--health", "/health", "posix", str(root)]
    sync_trace = directory / "gateway.trace" if trace else None
    with run(
        traced([program, *where, *options], sync_trace),
        environ=base_environ(),
        directory=directory,
        port=port,
        path="/health",
    ) as gateway:
        _create_bucket(gateway)
        yield _as_store(gateway)


def _create_bucket(gateway: Server) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=gateway.url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(POLICY))


def _as_store(gateway: Server) -> Store:
    pages = f"/{BUCKET}?list-type=2&max-keys={PAGE_NAMES}"

    def page(prefix: str, after: str) -> list[str]:
        answer = get(gateway, f"{pages}&prefix={prefix}&start-after={after}")[1]
        return re.findall("<Key>([^<]*)</Key>", answer.decode())

    return Store(
        server=gateway,
        pids=(gateway.process.pid,),
        upload=Destination("PUT", f"/{BUCKET}/"),
        download=f"/{BUCKET}/",
        delete=f"/{BUCKET}/",
        page=pages,
        list_names=lambda prefix: list_by_pages(partial(page, prefix)),
    )


def _read_version() -> str:
    """Return the version of its Go module: what it says of itself is not filled in."""
    command = ["go", "version", "-m", find_program(PROGRAM) or PROGRAM]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    match = re.search(rf"\smod\s+{re.escape(MODULE)}\s+(\S+)", done.stdout)
    return match[1] if match else "unknown"


VERSITYGW = Kind(
    name="versitygw",
    title="Versity S3 Gateway, one copy",
    install=f"GOBIN=/usr/local/bin go install {MODULE}/cmd/{PROGRAM}@latest",
    programs=(PROGRAM,),
    version=_read_version,
    how="one process in Go over one directory (its posix backend); a public bucket, no access log",
    durability="nothing: the kernel writes its page cache half a minute later",
    run=run_versitygw,
)
