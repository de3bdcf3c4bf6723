"""Which proxy the environment names for an address."""

from __future__ import annotations

import os

import pytest
from statepath.proxies import proxy_for


@pytest.fixture(autouse=True)
def _proxies(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@secure:3128")
    monkeypatch.setenv("HTTP_PROXY", "plain:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,::1,.example.org,here:9000")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://storage.googleapis.com/storage/v1", "http://user:word@secure:3128"),
        ("http://storage.googleapis.com", "http://plain:3128"),
        ("https://blobs.example.org/x", None),
        ("http://127.0.0.1:10000/devstoreaccount1", None),
        ("http://[::1]:10000/devstoreaccount1", None),
        ("http://[::1]", None),
        ("http://[::2]", "http://plain:3128"),
        ("http://here:9000", None),
        ("http://here:9001", "http://plain:3128"),
    ],
)
def test_the_proxy_is_that_of_the_scheme_unless_the_host_is_named(url, proxy):
    assert proxy_for(url) == proxy


def test_where_none_is_named_there_is_none(monkeypatch):
    monkeypatch.delenv("HTTPS_PROXY")
    assert proxy_for("https://storage.googleapis.com") is None
