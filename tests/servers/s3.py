"""Servers that speak S3: SeaweedFS, and moto, which is a stand-in that keeps everything in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from servers.process import HOST, Command, free_port, running, script

KEY, SECRET = "testkey", "testsecret"
BUCKET = "states"
REGION = "us-east-1"

_MOTO = Path(__file__).with_name("moto_stand_in.py")


@contextmanager
def seaweed() -> Iterator[str]:
    """SeaweedFS with the bucket; its address."""
    with running(_seaweed) as port:
        yield _with_bucket(f"http://{HOST}:{port}")


@contextmanager
def moto() -> Iterator[str]:
    """moto with the bucket; its address. It accepts any credentials."""
    with running(_moto) as port:
        yield _with_bucket(f"http://{HOST}:{port}")


def client(endpoint: str, **options: object) -> object:
    """A client of its own for what a test does around the backend."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 3}),
        **options,
    )


def _with_bucket(endpoint: str) -> str:
    made = client(endpoint)
    made.create_bucket(Bucket=BUCKET)
    made.close()
    return endpoint


def _seaweed(folder: Path) -> Command:
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "test", "credentials": credentials, "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {
        name: free_port(also=10_000) for name in ("s3", "master", "volume", "filer", "admin")
    }  # it takes the port 10,000 higher, too
    arguments = [
        script("weed"),
        f"-logdir={folder}",
        "mini",
        f"-dir={folder}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.config=s3.json",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}.port={port}" for name, port in ports.items()),
    ]
    sockets = [
        Path(f"/tmp/seaweedfs-{name}{of}.sock")  # noqa: S108 - it asks nobody where
        for name, port in ports.items()
        for of in (f"-{port}", f"-grpc-{port + 10_000}")
    ]
    return Command(arguments, ports["s3"], lambda: _serves(ports["s3"]), sockets)


def _moto(folder: Path) -> Command:
    port = free_port()
    return Command([sys.executable, str(_MOTO), "-H", HOST, "-p", str(port)], port, lambda: _serves(port))


def _serves(port: int) -> bool:
    """Whether it answers at all; without credentials it refuses, but only once it is ready to."""
    try:
        with urlopen(Request(f"http://{HOST}:{port}/"), timeout=2):
            return True
    except HTTPError as error:
        return error.code < 500
    except OSError:
        return False
