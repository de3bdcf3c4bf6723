"""What a URL of Google Cloud Storage says, and what the environment adds to it."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Place
from statepath_gcs.config import GCSConfig, complete, parse


def parsed(text: str) -> GCSConfig:
    return parse(StateURL.parse(text))


def test_a_bucket_and_a_prefix():
    assert parsed("gs://bucket/agents/prod") == GCSConfig(Place("bucket", "agents/prod/"))
    assert parsed("gs://bucket") == parsed("gs://bucket/") == GCSConfig(Place("bucket", ""))
    assert parsed("gs://my_bucket.example.com/x/").place == Place("my_bucket.example.com", "x/")


def test_both_schemes_are_the_same():
    points = entry_points(group="statepath.backends")
    assert points["gs"].load() is points["gcs"].load()
    assert parsed("gcs://bucket/x") == parsed("gs://bucket/x")


def test_every_parameter():
    config = parsed(
        "gs://b/x?endpoint_url=http://127.0.0.1:4443/&user_project=payer&anonymous=True&timeout=2.5"
    )
    assert config == GCSConfig(Place("b", "x/"), "http://127.0.0.1:4443", "payer", True, 2.5)


def test_the_url_wins_over_the_environment():
    env = {
        "STATE_GCS_USER_PROJECT": "payer",
        "STATE_GCS_TIMEOUT": "7",
        "STATE_GCS_ANONYMOUS": "",
        "STATE_GCS_ENDPOINT_URL": "https://storage.example.org",
        "STORAGE_EMULATOR_HOST": "127.0.0.1:4443",
    }
    config = complete(parsed("gs://b?user_project=other"), env)
    assert config == GCSConfig(Place("b", ""), "https://storage.example.org", "other", None, 7.0)
    ours = complete(parsed("gs://b?endpoint_url=http://mine"), env)
    assert ours.endpoint_url == "http://mine"


@pytest.mark.parametrize(
    ("variable", "endpoint"),
    [
        ("127.0.0.1:4443", "http://127.0.0.1:4443"),
        ("https://emulator.example.org/", "https://emulator.example.org"),
        ("default", None),
        ("", None),
    ],
)
def test_the_variable_for_emulators_is_understood_as_google_does(variable, endpoint):
    assert complete(parsed("gs://b"), {"STORAGE_EMULATOR_HOST": variable}).endpoint_url == endpoint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gs:///prefix", "names no bucket"),
        ("gs://bucket:9000/x", "names no bucket"),
        ("gs://key:secret@bucket/x", "no credentials"),
        ("gs://b/a//b", "empty"),
        ("gs://b//x", "empty"),
        ("gs://b/x//", "empty"),
        ("gs://b/a/../b", "'..'"),
        ("gs://b/" + "x" * 401, "400 bytes"),
        ("gs://b?timeout=0", "timeout"),
        ("gs://b?anonymous=yes", "true or false"),
        ("gs://b?endpoint_url=host:9000", "endpoint_url"),
        ("gs://b?endpoint_url=http://a..b:9", "endpoint_url"),
        (f"gs://b?endpoint_url=http://{'x' * 64}.org", "endpoint_url"),
        ("gs://b?endpoint_url=http://host/%3Fx=1%23", "endpoint_url"),
        ("gs://b?endpoint_url=http://key:secret@host", "credentials"),
        ("gs://b?token=secret", "'token'"),
    ],
)
def test_what_cannot_be_used_is_refused(text, told):
    with pytest.raises(InvalidArgumentError, match=told) as caught:
        parsed(text)
    assert "secret" not in str(caught.value)


def test_a_variable_that_cannot_be_used_is_named():
    with pytest.raises(InvalidArgumentError, match="STATE_GCS_TIMEOUT"):
        complete(parsed("gs://b"), {"STATE_GCS_TIMEOUT": "soon"})
    with pytest.raises(
        InvalidArgumentError, match="STORAGE_EMULATOR_HOST holds more than an address"
    ) as caught:
        complete(parsed("gs://b"), {"STORAGE_EMULATOR_HOST": "key:canary@host"})
    assert "canary" not in str(caught.value)
