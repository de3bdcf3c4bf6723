"""What a URL of Azure says, and what the environment adds to it."""

from __future__ import annotations

import pytest
from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Place
from statepath_azure.config import AzureConfig, complete, parse


def parsed(text: str) -> AzureConfig:
    return parse(StateURL.parse(text))


def test_a_container_and_a_prefix():
    assert parsed("az://container/agents/prod") == AzureConfig(Place("container", "agents/prod/"))
    assert parsed("az://container") == parsed("abfs://container/") == AzureConfig(Place("container", ""))
    assert parsed("azblob://a-1-b/x/").place == Place("a-1-b", "x/")


def test_every_parameter():
    config = parsed("az://con/x?account_name=acc1&endpoint_url=http://127.0.0.1:10000/acc1/&timeout=2.5")
    assert config == AzureConfig(Place("con", "x/"), "acc1", "http://127.0.0.1:10000/acc1", 2.5)


@pytest.mark.parametrize("host", ["acc1.dfs.core.windows.net", "acc1.blob.core.windows.net"])
def test_the_account_may_stand_where_other_tools_write_it(host):
    assert parsed(f"abfs://con@{host}/x") == AzureConfig(Place("con", "x/"), "acc1")
    assert parsed(f"abfs://con@{host}/x?account_name=acc1") == AzureConfig(Place("con", "x/"), "acc1")
    with pytest.raises(InvalidArgumentError, match="two accounts"):
        parsed(f"abfs://con@{host}/x?account_name=acc2")


def test_the_url_wins_over_the_environment():
    env = {"STATE_AZURE_ACCOUNT_NAME": "theirs", "STATE_AZURE_TIMEOUT": "7", "STATE_AZURE_ENDPOINT_URL": ""}
    assert complete(parsed("az://con?account_name=ours"), env) == AzureConfig(
        Place("con", ""), "ours", None, 7.0
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("az:///prefix", "names no container"),
        ("az://con:9000/x", "names no container"),
        ("az://name:secret@con/x", "no credentials"),
        ("az://con@acc1.example.org/x", "no credentials"),
        ("az://con:secret@acc1.dfs.core.windows.net/x", "no credentials"),
        ("az://Container/x", "no container's name"),
        ("az://co/x", "no container's name"),
        ("az://con--tainer/x", "no container's name"),
        ("az://" + "c" * 64, "no container's name"),
        ("az://con/a//b", "empty"),
        ("az://con//x", "empty"),
        ("az://con/x//", "empty"),
        ("az://con/a./b", "ends with a dot"),
        ("az://con/a...", "ends with a dot"),
        ("az://con/" + "x" * 401, "400 bytes"),
        ("az://con?timeout=0", "timeout"),
        ("az://con?account_name=secret/", "account_name"),
        ("az://con?account_name=SECRET", "account_name"),
        ("az://con?endpoint_url=host:9000", "endpoint_url"),
        ("az://con?endpoint_url=http://a..b:9", "endpoint_url"),
        (f"az://con?endpoint_url=http://{'x' * 64}.org", "endpoint_url"),
        ("az://con?endpoint_url=http://name:secret@host", "SAS tokens"),
        ("az://con?endpoint_url=https://host/?sig%3Dsecret", "SAS tokens"),
        ("az://con?sas_token=sig%3Dsecret", "sas_token"),
    ],
)
def test_what_cannot_be_used_is_refused(text, told):
    with pytest.raises(InvalidArgumentError, match=told) as caught:
        parsed(text)
    assert "secret" not in str(caught.value).lower()


def test_a_variable_that_cannot_be_used_is_named():
    with pytest.raises(InvalidArgumentError, match="STATE_AZURE_TIMEOUT"):
        complete(parsed("az://con"), {"STATE_AZURE_TIMEOUT": "soon"})
