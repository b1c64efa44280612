"""A real S3 server for tests: Moto's, as a process of its own, or one that is named.

By DFS_TEST_S3_ENDPOINT, DFS_TEST_S3_ACCESS_KEY_ID and DFS_TEST_S3_SECRET_ACCESS_KEY the tests run
against any server whose keys may create buckets. What they leave there is theirs to remove.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"
# The first requests are let through, to make the user; from then on every signature is checked.
REQUESTS_UNCHECKED = 3
SERVER = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""
ALLOW_ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server and the keys to it."""

    endpoint: str
    access_key_id: str
    secret_access_key: str

    def client(self) -> Any:
        """Return a client of boto3, for what no store does."""
        return boto3.client("s3", config=Config(s3={"addressing_style": "path"}), **self._access())

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"dfs-test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with what is in it."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=name, Key=entry["Key"])
        client.delete_bucket(Bucket=name)

    def _access(self) -> dict[str, str]:
        return {
            "endpoint_url": self.endpoint,
            "region_name": REGION,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
        }


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Yield the server that is named, or one that is started and stopped again."""
    endpoint = os.environ.get("DFS_TEST_S3_ENDPOINT")
    if endpoint:
        yield S3Server(
            endpoint,
            os.environ["DFS_TEST_S3_ACCESS_KEY_ID"],
            os.environ["DFS_TEST_S3_SECRET_ACCESS_KEY"],
        )
        return
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(REQUESTS_UNCHECKED)},
    )
    try:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        yield S3Server(endpoint, *_create_user(endpoint))
    finally:
        process.terminate()
        process.communicate()


def _create_user(endpoint: str) -> tuple[str, str]:
    """Create a user who may do everything; return the keys. Takes all unchecked requests."""
    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="unchecked",
        aws_secret_access_key="unchecked",
    )
    iam.create_user(UserName="dfs")
    policy = json.dumps(ALLOW_ALL)
    iam.put_user_policy(UserName="dfs", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="dfs")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
