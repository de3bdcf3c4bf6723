"""What cannot work is told when the store is opened: which container, why, and what to do; and never a secret."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from servers.azure import CONTAINER, KEY
from servers.process import free_port
from servers.proxy import Proxy
from servers.refusals import refusal
from servers.services import azure_service
from statepath.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidArgumentError,
    UnavailableError,
)


def told(error, caplog):
    """All that a person, a log or another process is shown of it."""
    return (
        "".join(traceback.format_exception(error))
        + repr(error)
        + repr(pickle.dumps(error))
        + "".join(record.getMessage() for record in caplog.records)
    )


async def test_a_wrong_key_is_refused_without_being_shown(az, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "Y2FuYXJ5LWNhbmFyeQ==")
    error = await refusal(az.path("x"), AccessDeniedError)
    assert "check the account key" in str(error)
    assert CONTAINER in str(error)
    assert "Y2FuYXJ5LWNhbmFyeQ" not in told(error, caplog)


async def test_what_is_no_key_is_refused_without_being_shown(az, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "canary")
    error = await refusal(az.path("x"), AccessDeniedError)
    assert error.code == "no_credentials"
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(error)
    assert "canary" not in told(error, caplog)


async def test_missing_credentials_are_asked_for(azure_account, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    path = azure_service("nobody", f"https://127.0.0.1:{free_port()}").path("x")
    error = await refusal(path, AccessDeniedError)
    assert error.code == "no_credentials"
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(error)


async def test_a_login_is_not_sent_in_the_clear(az, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    assert "not sent over http" in str(await refusal(az.path("x"), AccessDeniedError))


async def test_an_incomplete_service_principal_is_told(az, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_CLIENT_ID", "canary")
    error = await refusal(az.path("x"), AccessDeniedError)
    assert error.code == "no_credentials"


async def test_without_an_account_there_is_nowhere_to_go(azure_account, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    error = await refusal(f"az://{CONTAINER}/x", ConfigurationError)
    assert error.code == "no_account"
    assert "STATE_AZURE_ACCOUNT_NAME" in str(error)


async def test_an_account_that_is_none_gets_no_credentials(azure_account, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "evil.example.org/")
    error = await refusal(f"az://{CONTAINER}/x", InvalidArgumentError)
    assert "AZURE_STORAGE_ACCOUNT_NAME" in str(error)


@pytest.mark.parametrize(
    ("text", "name"),
    [("canary", "no connection string"), ("AccountName=a;AccountKey", "no connection string")],
)
async def test_what_is_no_connection_string_is_told_without_being_shown(az, monkeypatch, caplog, text, name):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    error = await refusal(az.path("x"), InvalidArgumentError)
    assert name in str(error)
    assert text not in told(error, caplog)


@pytest.mark.parametrize(
    ("name", "value"), [("account_name", "another"), ("endpoint_url", "http://127.0.0.1:1")]
)
async def test_a_connection_string_for_another_place_is_not_followed(az, monkeypatch, name, value):
    text = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={az.endpoint}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    error = await refusal(az.path("x", **{name: value}), InvalidArgumentError)
    assert name in str(error)
    assert KEY not in str(error)


@pytest.mark.parametrize(
    ("permissions", "readonly"), [("rcwd", False), ("rcwd", True), ("rl", False), ("l", False)]
)
async def test_a_token_that_lacks_permissions_is_told(az, sas, caplog, permissions, readonly):
    caplog.set_level(logging.DEBUG)
    signature = sas(permissions)
    async with Proxy(az.endpoint).running() as proxy:  # nobody has tried to write by that address before
        error = await refusal(az.at(proxy.url).path("x"), AccessDeniedError, readonly=readonly)
    assert "rwdl" in str(error)
    assert signature not in told(error, caplog)


async def test_a_token_that_has_expired_is_told(az, sas, caplog):
    caplog.set_level(logging.DEBUG)
    signature = sas("rwdl", hours=-1)
    error = await refusal(az.path("x"), AccessDeniedError)
    assert "expired" in str(error)
    assert signature not in told(error, caplog)


async def test_what_is_no_token_is_told_without_being_shown(az, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "canary")
    error = await refusal(az.path("x"), InvalidArgumentError)
    assert "AZURE_STORAGE_SAS_TOKEN" in str(error)
    assert "canary" not in str(error)


async def test_an_endpoint_that_is_down_is_told(sas, caplog):
    signature = sas("rwdl")
    path = azure_service("nobody", f"http://127.0.0.1:{free_port()}").path("x")
    error = await refusal(path, UnavailableError)
    assert CONTAINER in str(error)
    assert "endpoint" in str(error)
    assert signature not in told(error, caplog)


@asynccontextmanager
async def answering(answer):
    """A server that gives everyone the same answer; its address."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_what_does_not_speak_http_is_told_without_the_token(sas, caplog):
    signature = sas("rwdl")
    async with answering(b"SSH-2.0-OpenSSH_9.9\r\n") as endpoint:
        error = await refusal(azure_service("ssh", endpoint).path("x"), UnavailableError)
    assert signature not in told(error, caplog)


@pytest.mark.parametrize(
    ("minutes", "code"), [(20, "clock_skewed"), (-20, "clock_skewed"), (10, "access_denied")]
)
async def test_a_clock_that_is_off_is_told_from_a_wrong_key(azure_account, minutes, code):
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    answer = (
        "HTTP/1.1 403 Forbidden\r\nx-ms-request-id: 1\r\nx-ms-error-code: AuthenticationFailed\r\n"
        f"Date: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    async with answering(answer.encode()) as endpoint:
        error = await refusal(azure_service("late", endpoint).path("x"), AccessDeniedError)
    assert error.code == code
    assert ("set the clock" in str(error)) is (code == "clock_skewed")
