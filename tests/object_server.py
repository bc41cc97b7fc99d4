"""A real S3 server on the loopback (moto's), with buckets of their own for tests, and credentials that mean nothing."""

import os
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.servers import free_port, served

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class Bucket:
    """A bucket with a prefix in it; `environment` is what a process needs to reach it."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, **CREDENTIALS}
    url = f"http://127.0.0.1:{port}"
    with served(command, f"{url}/moto-api/", tmp_path_factory.mktemp("object-server"), environment):
        yield url


@pytest.fixture
def bucket(object_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, which this process can reach too."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{object_server}/{name}", method="PUT"), timeout=60).close()  # noqa: S310
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": object_server}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return Bucket(f"s3://{name}/team", environment)
