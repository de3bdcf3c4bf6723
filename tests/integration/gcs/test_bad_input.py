"""What cannot work is told when the store is opened: which bucket, why, and what to do; and never a secret."""

from __future__ import annotations

import json
import logging
import traceback
from urllib.parse import urlsplit

import pytest
import statepath
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from servers.gcs import BUCKET
from servers.refusals import refusal
from servers.services import gcs_service
from statepath.backend import IF_ABSENT, StateURL
from statepath.discovery import connect
from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    ThrottledError,
    UnsupportedError,
)


@pytest.mark.parametrize(
    ("status", "reason", "kind", "said"),
    [
        (401, "authError", AccessDeniedError, "renew"),
        (401, "required", AccessDeniedError, "gcloud auth application-default login"),
        (403, "forbidden", AccessDeniedError, "storage.objects.get, create, delete and list"),
        (403, "insufficientPermissions", AccessDeniedError, "scope"),
        (400, "invalid", InvalidArgumentError, "400 invalid"),
    ],
)
async def test_a_bucket_that_may_not_be_listed_is_told_with_the_cause(scripted, status, reason, kind, said):
    scripted.refuse(status, reason)
    error = await refusal(scripted.path(), kind)
    assert said in str(error)
    assert f"gs://{BUCKET}/x/" in str(error)
    assert len(scripted.requests) == 1


@pytest.mark.slow
async def test_an_endpoint_that_is_too_busy_is_asked_again(scripted):
    scripted.refuse(429, "rateLimitExceeded")
    assert (await refusal(scripted.path(), ThrottledError)).retryable
    assert len(scripted.requests) > 1
    scripted.answers += [(200, {})]
    backend = await connect(scripted.path(), readonly=True, deadline=30)
    await backend.close()


async def test_a_server_that_ignores_conditions_is_refused(bare_gcs):
    service = gcs_service("bare", bare_gcs)
    for _ in range(2):
        error = await refusal(service.path("x"), UnsupportedError)
        assert error.code == "conditions_ignored"
        assert "delete only a given version" in str(error)
        assert bare_gcs in str(error)
        assert BUCKET in str(error)


async def test_credentials_that_are_named_and_missing_are_told(scripted, monkeypatch, tmp_path):
    """gcsfs alone would go on without any."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    (tmp_path / "garbage.json").write_text("canary")
    for name in ("none.json", "garbage.json"):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / name))
        error = await refusal(scripted.path(anonymous="false"), AccessDeniedError)
        assert error.code == "no_credentials"
        assert "GOOGLE_APPLICATION_CREDENTIALS" in str(error)
        assert "canary" not in "".join(traceback.format_exception(error))
    assert scripted.requests == []


@pytest.fixture
def account(scripted, monkeypatch, tmp_path):
    """A service account, whose access tokens the scripted server issues, too."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    described = {
        "type": "service_account",
        "client_email": "agents@project.example.org",
        "private_key": key.decode(),
        "private_key_id": "1",
        "project_id": "project",
        "token_uri": f"{scripted.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(described))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    return key.decode()


def issued(token: str, seconds: int = 3600) -> tuple[int, object]:
    return 200, {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}


def used(scripted) -> list[str]:
    """The tokens in the requests to the service."""
    return [sent["Authorization"] for sent in scripted.sent if "Authorization" in sent]


async def test_wrong_credentials_are_refused_without_being_shown(scripted, account, caplog):
    caplog.set_level(logging.DEBUG)
    scripted.refuse(401, "authError", "Invalid Credentials")
    scripted.answers.insert(0, issued("canary"))
    error = await refusal(scripted.path(anonymous="false"), AccessDeniedError)
    assert [urlsplit(target.split()[1]).path for target in scripted.requests] == [
        "/token",
        f"/storage/v1/b/{BUCKET}/o",
        "/token",
    ]
    assert scripted.sent[1]["Authorization"] == "Bearer canary"
    told = "".join(traceback.format_exception(error)) + repr(error)
    ours = "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("statepath", "gcsfs"))
    )
    for secret in ("canary", account.splitlines()[5]):
        assert secret not in told + ours


async def test_credentials_are_not_sent_in_the_clear(scripted, account, monkeypatch):
    scripted.answers = [issued("canary")]
    path = gcs_service("far", "http://storage.example.test").path("x", anonymous="false")
    assert "not sent over http" in str(await refusal(path, AccessDeniedError))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "storage.example.test:4443")
    assert "not sent over http" in str(await refusal(f"gs://{BUCKET}/x", AccessDeniedError))


async def test_a_token_is_renewed_before_it_runs_out_while_the_loop_goes_on(scripted, account):
    """The server that issues it runs in this very loop."""
    scripted.answers = [issued("first", 350), (200, {}), issued("second"), (200, {})]
    backend = await connect(scripted.path(anonymous="false"), readonly=True)
    for _ in range(2):
        assert [entry async for entry in backend.list_keys("")] == []
    await backend.close()
    assert used(scripted) == ["Bearer first", "Bearer second", "Bearer second"]


async def test_a_token_that_is_good_is_used_where_no_new_one_is_issued(scripted, account):
    refused = 400, {"error": "invalid_grant", "error_description": "canary"}
    scripted.answers = [issued("first", 340), (200, {}), refused, (200, {})]
    backend = await connect(scripted.path(anonymous="false"), readonly=True)
    for _ in range(2):
        assert [entry async for entry in backend.list_keys("")] == []
    await backend.close()
    assert used(scripted) == ["Bearer first"] * 3
    assert [target for target in scripted.requests if "/token" in target] == ["POST /token"] * 2


UNKNOWN = 401, {"error": {"message": "Invalid Credentials", "errors": [{"reason": "authError"}]}}


async def test_a_token_that_is_refused_before_its_time_is_replaced(scripted, account):
    """It was revoked, or this machine's clock was set back."""
    stored = 200, {"generation": "1"}
    scripted.answers = [issued("first"), (200, {}), UNKNOWN, issued("second"), stored]
    backend = await connect(scripted.path(anonymous="false"), readonly=True)
    assert await backend._driver.put("x/a", b"1", IF_ABSENT) == "1"
    await backend.close()
    assert used(scripted) == ["Bearer first", "Bearer first", "Bearer second"]
    assert scripted.bodies[2]
    assert scripted.bodies[2] == scripted.bodies[4]


async def test_a_new_token_that_is_refused_too_is_not_replaced_again_and_again(scripted, account):
    scripted.answers = [issued("first"), (200, {}), UNKNOWN, issued("second"), UNKNOWN]
    backend = await connect(scripted.path(anonymous="false"), readonly=True)
    for _ in range(3):
        with pytest.raises(AccessDeniedError, match="credentials are not valid"):
            await backend.read("a")
    await backend.close()
    assert [target for target in scripted.requests if "/token" in target] == ["POST /token"] * 2


async def test_without_a_token_that_is_good_it_is_told_that_no_new_one_is_issued(scripted, account):
    refused = 400, {"error": "invalid_grant", "error_description": "canary"}
    scripted.answers = [issued("first", 0), (200, {}), refused]
    backend = await connect(scripted.path(anonymous="false"), readonly=True)
    with pytest.raises(AccessDeniedError, match="invalid_grant"):
        await backend.read("a")
    await backend.close()


async def test_anonymous_requests_carry_nothing_of_the_credentials_that_there_are(scripted, account):
    scripted.answers = [(200, {})]
    backend = await connect(scripted.path(anonymous="true"), readonly=True)
    await backend.close()
    (sent,) = scripted.sent
    assert "Authorization" not in sent


@pytest.mark.parametrize(
    ("description", "code", "said"),
    [
        ("Invalid grant: account not found", "access_denied", "invalid_grant"),
        ("Invalid JWT: Check your iat and exp values in the JWT claim.", "clock_skewed", "set the clock"),
    ],
)
async def test_a_token_that_is_not_issued_is_told_with_the_cause(scripted, account, description, code, said):
    scripted.answers = [(400, {"error": "invalid_grant", "error_description": description})]
    error = await refusal(scripted.path(anonymous="false"), AccessDeniedError)
    assert error.code == code
    assert said in str(error)


async def test_a_prefix_with_odd_characters_is_kept_as_it_is(google):
    odd = "a b/ü+&=%41?#/~;,'\"()[]{}"
    async with statepath.open(google.path(odd), autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    async with statepath.open(google.path(odd), readonly=True) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
        assert StateURL.parse(store.url).path == f"/{odd}"
