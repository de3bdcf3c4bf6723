"""What a URL of S3 says, and what the environment adds to it."""

from __future__ import annotations

import pytest
from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Place
from statepath_s3.config import S3Config, complete, parse


def parsed(text: str) -> S3Config:
    return parse(StateURL.parse(text))


def test_a_bucket_and_a_prefix():
    assert parsed("s3://bucket/agents/prod") == S3Config(Place("bucket", "agents/prod/"))
    assert parsed("s3://bucket") == parsed("s3://bucket/") == S3Config(Place("bucket", ""))
    assert parsed("s3://Bucket.With-Dots/x/").place == Place("Bucket.With-Dots", "x/")


def test_every_parameter():
    config = parsed(
        "s3://b/x?endpoint_url=https://s3.example.org:9000&region=eu-central-1&profile=agents&anonymous=false"
        "&path_style=True&requester_pays=true&timeout=2.5"
    )
    assert config == S3Config(
        Place("b", "x/"), "https://s3.example.org:9000", "eu-central-1", "agents", False, True, True, 2.5
    )


def test_the_url_wins_over_the_environment():
    env = {
        "STATE_S3_REGION": "eu-west-1",
        "STATE_S3_TIMEOUT": "7",
        "STATE_S3_PATH_STYLE": "true",
        "STATE_S3_PROFILE": "",
    }
    config = complete(parsed("s3://b?region=us-east-2"), env)
    assert (config.region, config.timeout, config.path_style, config.profile) == (
        "us-east-2",
        7.0,
        True,
        None,
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket:9000/x", "names no bucket"),
        ("s3://key:secret@bucket/x", "no credentials"),
        ("s3://agents--use1-az4--x-s3/x", "a general purpose bucket"),
        ("s3://agents--use1-az4--xa-s3/x", "a general purpose bucket"),
        ("s3://b/a//b", "empty"),
        ("s3://b//x", "empty"),
        ("s3://b/x//", "empty"),
        ("s3://b/a/../b", "'..'"),
        ("s3://b/" + "x" * 401, "400 bytes"),
        ("s3://b?timeout=0", "timeout"),
        ("s3://b?timeout=soon", "timeout"),
        ("s3://b?anonymous=yes", "true or false"),
        ("s3://b?endpoint_url=host:9000", "endpoint_url"),
        ("s3://b?endpoint_url=http://a..b:9", "endpoint_url"),
        (f"s3://b?endpoint_url=http://{'x' * 64}.org", "endpoint_url"),
        ("s3://b?endpoint_url=http://key:secret@host", "credentials"),
        ("s3://b?endpoint_url=http://host/%3Fx=1", "more than an address"),
        ("s3://b?acl=public", "acl"),
    ],
)
def test_what_cannot_be_used_is_refused(text, told):
    with pytest.raises(InvalidArgumentError, match=told) as caught:
        parsed(text)
    assert "secret" not in str(caught.value)


def test_a_variable_that_cannot_be_used_is_named():
    with pytest.raises(InvalidArgumentError, match="STATE_S3_TIMEOUT"):
        complete(parsed("s3://b"), {"STATE_S3_TIMEOUT": "soon"})
