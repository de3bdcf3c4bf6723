"""What cannot work is told when the store is opened: which bucket, why, and what to do; and never a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from contextlib import asynccontextmanager

import pytest
import statepath
from servers.refusals import refusal
from servers.s3 import BUCKET, REGION, SECRET
from servers.services import s3_service
from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    UnsupportedError,
)


async def test_wrong_credentials_are_refused_without_being_shown(aws, seaweed, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    path = s3_service("seaweed", seaweed).path("x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-canary")
    error = await refusal(path, AccessDeniedError)
    assert "secret access key" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    other = await refusal(path, AccessDeniedError)
    assert "AWS_ACCESS_KEY_ID" in str(other)
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(other)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("statepath"))
    for secret in ("wrong-canary", SECRET):
        assert secret not in told + ours


async def test_missing_credentials_are_asked_for(aws, moto, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    error = await refusal(s3_service("moto", moto).path("x"), AccessDeniedError)
    assert error.code == "no_credentials"
    assert "AWS_ACCESS_KEY_ID" in str(error)


async def test_an_unknown_profile_is_told(aws, moto):
    error = await refusal(s3_service("moto", moto).path("x", profile="nowhere"), AccessDeniedError)
    assert "ProfileNotFound" in str(error)


async def test_a_name_that_no_bucket_has_is_refused(aws, moto):
    path = s3_service("moto", moto).path("x").replace(BUCKET, "Not_A_Bucket!")
    await refusal(path, InvalidArgumentError)


@asynccontextmanager
async def _without(endpoint, *conditions, of=(b"PUT", b"DELETE")):
    """A server that takes conditions and ignores them: moto, behind something that drops these headers of requests
    with these methods."""
    host, _, port = endpoint.removeprefix("http://").partition(":")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        ignored = conditions if lines[0].partition(b" ")[0] in of else ()
        dropped = (*ignored, b"connection", b"expect")
        kept = [line for line in lines if line.partition(b":")[0].lower() not in dropped]
        size = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        if any(line.lower().startswith(b"expect") for line in lines):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(size)
        answering, asking = await asyncio.open_connection(host, int(port))
        asking.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body)
        writer.write(await answering.read(-1))
        await writer.drain()
        asking.close()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_a_server_that_ignores_conditions_is_refused(aws, moto, unprobed):
    async with _without(moto, b"if-none-match", b"if-match") as endpoint:
        service = s3_service("careless", endpoint)
        for _ in range(2):
            error = await refusal(service.path("x"), UnsupportedError)
            assert error.code == "conditions_ignored"
            assert endpoint in str(error)
            assert BUCKET in str(error)


@pytest.mark.parametrize(("method", "lost"), [(b"PUT", "replace"), (b"DELETE", "delete")])
async def test_a_server_that_ignores_a_stale_version_is_refused(aws, moto, unprobed, method, lost):
    async with _without(moto, b"if-match", of=(method,)) as endpoint:
        error = await refusal(s3_service("careless", endpoint).path("x"), UnsupportedError)
        assert error.code == "conditions_ignored"
        assert f"{lost} only a given version" in str(error)


async def test_a_server_that_copies_whatever_is_there_is_not_asked_for_backups(aws, moto, unprobed):
    from servers.proxy import Proxy

    async with (
        _without(moto, b"x-amz-copy-source-if-match") as endpoint,
        Proxy(endpoint).running() as proxy,
        statepath.open(s3_service("careless", endpoint).at(proxy.url).path("copies"), autosave=0) as store,
    ):
        assert not store._engine.backend.capabilities.copy
        proxy.requests = []
        for n in range(2):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        assert len(await store.backups()) == 1
        assert not [request for request in proxy.requests if b"-copy-source" in request.head.lower()]


async def test_an_endpoint_of_the_aws_tools_that_holds_a_password_is_refused_without_being_shown(
    aws, moto, unprobed, monkeypatch
):
    async with _without(moto, b"if-match") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.replace("://", "://joe:hunter2@"))
        error = await refusal(f"s3://{BUCKET}/x?anonymous=true", InvalidArgumentError)
    assert "AWS_ENDPOINT_URL, holds more than an address" in str(error)
    assert "hunter2" not in "".join(traceback.format_exception(error))


async def test_the_doctor_says_that_it_is_not_asked_to_copy(aws, moto):
    async with _without(moto, b"x-amz-copy-source-if-match") as endpoint:
        command = [sys.executable, "-m", "statepath.cli", "doctor", "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, s3_service("careless", endpoint).path("copies"), stdout=asyncio.subprocess.PIPE
        )
        told = json.loads((await process.communicate())[0])
    assert told["conditions"] == "kept"
    assert told["capabilities"]["copy"] is False


async def test_what_passed_the_probe_is_not_asked_again(aws, moto, unprobed):
    from servers.proxy import Proxy

    async with Proxy(moto).running() as proxy:
        service = s3_service("moto", moto).at(proxy.url)
        counts = []
        for _ in range(2):
            proxy.requests = []
            async with statepath.open(service.path("probed"), autosave=0):
                counts.append(sum("/probe/" in request.target for request in proxy.requests))
        assert counts[0] > 4
        assert counts[1] == 0


async def test_region_and_parameters_come_from_the_environment_too(aws, moto, monkeypatch):
    monkeypatch.setenv("STATE_S3_ENDPOINT_URL", moto)
    monkeypatch.setenv("STATE_S3_REGION", REGION)
    monkeypatch.setenv("STATE_S3_PATH_STYLE", "true")
    async with statepath.open(f"s3://{BUCKET}/environment", autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        assert store.url == f"s3://{BUCKET}/environment"
