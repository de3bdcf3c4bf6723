from __future__ import annotations

from dataclasses import FrozenInstanceError
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statepath.errors import InvalidArgumentError, UnavailableError
from statepath.url import StateURL


@pytest.mark.parametrize(
    "path",
    [
        "./coding-agent-state",
        "/var/lib/agents",
        "relative/folder",
        "C:\\agents\\state",
        "c:/agents",
        "a b/ä",
        "./s3:/bucket",
        "./x://y",
        "folder/with:colon",
        "12:30",
        "?#%41",
        "~/state",
    ],
)
def test_a_plain_path_is_a_folder_and_stays_as_it_is(path: str) -> None:
    assert StateURL.parse(path) == StateURL("file", path)


def test_a_url_is_taken_apart_and_decoded() -> None:
    url = StateURL.parse("PostgreSQL://m%40e:p%2Fw@Host:5432/a%20b/c?x=1%202&y=")
    assert (url.scheme, url.host, url.port, url.path) == ("postgresql", "host", 5432, "/a b/c")
    assert (url.user, url.password) == ("m@e", "p/w")
    assert dict(url.query) == {"x": "1 2", "y": ""}
    assert url.netloc == "m%40e:p%2Fw@Host:5432"


def test_what_a_url_does_not_say_is_none() -> None:
    url = StateURL.parse("file:///srv/state")
    assert (url.scheme, url.path) == ("file", "/srv/state")
    assert (url.host, url.port, url.user, url.password, dict(url.query)) == (None, None, None, None, {})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the state path is empty"),
        (" \t", "the state path is empty"),
        ("/srv/state\n", "control character"),
        ("s3://bucket/\x00", "control character"),
        ("s3://bucket/%00", "encoded control character"),
        ("s3://bucket/a%0Ab", "encoded control character"),
        ("s3://bucket/%FF", "an escape that is no UTF-8"),
        ("s3://bucket?region=%FE", "an escape that is no UTF-8"),
        ("postgresql://me:%FF@host/db", "an escape that is no UTF-8"),
        ("postgresql://host:port/db", "the port is not a number"),
        ("postgresql://host:99999/db", "the port is not a number"),
        ("s3://[half/x", "brackets"),
        ("s3://bucket/a#b", "write it as %23"),
        ("postgresql://me:12/hunter2@host/db", "/ in a password as %2F"),
        ("s3://bucket?region=a&region=b", "the parameter 'region' twice"),
        ("s3:/bucket", "write s3:// with two slashes"),
        ("s3:bucket", "write s3:// with two slashes"),
        (" s3://bucket", "no URL scheme"),
        ("s_3://bucket", "no URL scheme"),
        ("3s://bucket", "no URL scheme"),
        ("://bucket", "no URL scheme"),
    ],
)
def test_a_malformed_state_path_is_refused_with_its_cause(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgumentError, match=cause):
        StateURL.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunter2@host\u2100/db",
        "postgresql://me:hunter2@[host/db",
        "postgresql://me:hunter2@host/db#x",
        "postgresql:/me:hunter2@host/db",
        "postgresql:me:hunter2@host/db",
        "post_gresql://me:hunter2@host/db",
        "postgresql://host/db?password=hunter2&password=hunter2",
        "postgresql://me:hunter2@host/db\n",
        "postgresql://me:12/hunter2@host/db",
        "postgresql://me:/hunter2@host/db",
        "postgresql://me:12?hunter2@host/db",
    ],
)
def test_no_message_quotes_a_password(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        StateURL.parse(text)
    assert "hunter2" not in f"{caught.value!r}"
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_what_is_shown_of_a_url_has_no_secrets() -> None:
    url = StateURL.parse("postgresql://me:hunter2@host:0/db?password=hunter3&x=1")
    assert url.redacted() == "postgresql://…@host:0/db?password=…&x=…"
    assert "hunter" not in repr(url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/state", "/srv/state"),
        ("file:///srv/state", "/srv/state"),
        ("s3://bucket/agents", "s3://bucket/agents"),
        ("zz://[::1]:80/a", "zz://[::1]:80/a"),
        ("zz://[::1]/a@b", "zz://[::1]/a@b"),
        ("zz://host:80/a%40b", "zz://host:80/a%40b"),
        ("zz://host:80/a?user=me@server", "zz://host:80/a?user=…"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_a_state_path_without_secrets_is_shown_as_it_is(text: str, shown: str) -> None:
    assert StateURL.parse(text).redacted() == shown


@given(st.sampled_from(["host", "host:80", "[::1]", "[::1]:80", "one:80,two"]), st.text("ab/%#?@:é 23"))
def test_what_is_shown_names_the_same_place(authority: str, path: str) -> None:
    url = StateURL.parse(f"zz://{authority}/{quote(path)}")
    assert StateURL.parse(url.redacted()) == url


@given(st.text("abcXYZ0123456789", min_size=6))
def test_a_password_is_never_shown(password: str) -> None:
    url = StateURL.parse(f"zz://user:{password}QQ@host/path?k={password}QQ")
    assert password + "QQ" not in url.redacted() + repr(url)


def test_a_user_is_not_shown_which_may_be_a_token():
    url = StateURL.parse("zz://t0ken@host/db")
    assert url.redacted() == "zz://…@host/db"
    assert "t0ken" not in repr(url)


def test_an_error_that_quotes_a_secret_is_noticed() -> None:
    url = StateURL.parse("zz://me:hun%2Fter@host/db?api_key=k4711&region=eu")
    for text in ("login of me with hun/ter", "zz://me:hun%2Fter@host", "api_key=k4711"):
        assert url.betrayed_by(ValueError(text))
    assert not url.betrayed_by(ValueError("no region eu at host for me"))
    assert not StateURL.parse("zz://host").betrayed_by(ValueError(""))


def test_a_word_that_only_begins_like_the_password_betrays_nothing() -> None:
    url = StateURL.parse("postgresql://postgres:postgres@host/db")
    assert not url.betrayed_by(ValueError("PostgreSQL cannot be reached: postgresql://host/db"))
    for text in ("postgres", "'postgres'", ":postgres@host", "%3Apostgres%40host", "me_postgres_1"):
        assert url.betrayed_by(ValueError(f"PostgreSQL says {text}"))


@pytest.mark.parametrize(
    "text",
    ["sig=a/b", "sig=a%2Fb", "sig=a%2fb", "xx://TO%2FKEN@host", "xx://to/ken@host", "PASS=PA%24S"],
)
def test_however_a_secret_is_written(text: str) -> None:
    url = StateURL.parse("xx://TO%2FKEN@host/p?sig=a%2Fb&pass=pa%24s")
    assert url.betrayed_by(ValueError(f"cannot use {text}"))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("xx://host?sig=a/b%2Bc%3D", "sig=a/b%2Bc%3D"),
        ("xx://host?sig=a+b", "sig=a+b"),
        ("xx://me:p%61ss%40@host", "me:p%61ss%40@host"),
        ("xx://to%6Ben@host", "xx://to%6Ben@host"),
        ("xx://me:a%5Cb@host", r"'a\\b'"),
    ],
)
def test_with_whichever_escapes_it_is_quoted(url: str, text: str) -> None:
    assert StateURL.parse(url).betrayed_by(ValueError(f"cannot use {text}"))


def test_what_a_traceback_shows_beside_an_error_betrays_a_secret_too() -> None:
    url, cause = StateURL.parse("zz://me:hunter2@host"), ValueError("hunter2")
    caused, after, noted = (UnavailableError("down") for _ in range(3))
    caused.__cause__ = UnavailableError("lost")
    caused.__cause__.__cause__ = cause
    after.__context__ = cause
    noted.add_note("hunter2")
    several = ExceptionGroup("none of two", [ValueError("one"), cause])
    for error in (caused, after, noted, several):
        assert url.betrayed_by(error)
    after.__suppress_context__ = True
    assert not url.betrayed_by(after)
    caused.__cause__.__cause__ = caused
    assert not url.betrayed_by(caused)


def test_unknown_parameters_are_refused_by_name_only() -> None:
    url = StateURL.parse("s3://bucket?region=eu&tokn=hunter2")
    with pytest.raises(InvalidArgumentError, match=r"no parameter 'tokn'; known parameters: region, token$"):
        url.only("region", "token")
    with pytest.raises(InvalidArgumentError, match=r"no parameter 'region'; known parameters: none$"):
        url.only()
    url.only("region", "tokn")


def test_a_url_is_a_value() -> None:
    url = StateURL.parse("s3://bucket/a?x=1")
    with pytest.raises(FrozenInstanceError):
        url.scheme = "gs"  # type: ignore[misc]  # the mistake
    with pytest.raises(TypeError):
        url.query["x"] = "2"  # type: ignore[index]  # the mistake
    assert url == StateURL.parse("s3://bucket/a?x=1")
