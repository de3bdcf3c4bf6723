"""What the driver makes of a connection string, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.blob.aio import BlobServiceClient
from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError, UnavailableError, UnsupportedError
from statepath_azure.config import complete, parse
from statepath_azure.credentials import Found, Login
from statepath_azure.driver import AzureDriver, _client

ELSEWHERE = "BlobEndpoint=https://blobs.example.org;SharedAccessSignature=sv=1&sig=x"
"""It names no account."""
OF_ONE = "AccountName=one;AccountKey=a2V5;EndpointSuffix=core.windows.net"


async def check(connection_string: str, **env: str) -> None:
    config = complete(parse(StateURL.parse("az://con/x")), env)
    client = BlobServiceClient.from_connection_string(connection_string)
    async with client:
        AzureDriver(client, Found(connection_string=connection_string), config)._check(config)


async def test_a_connection_string_that_names_no_account_contradicts_none():
    await check(ELSEWHERE, STATE_AZURE_ACCOUNT_NAME="one")


async def test_one_that_names_another_account_or_endpoint_is_refused():
    await check(OF_ONE, STATE_AZURE_ACCOUNT_NAME="one")
    with pytest.raises(InvalidArgumentError, match="another account_name"):
        await check(OF_ONE, STATE_AZURE_ACCOUNT_NAME="two")
    with pytest.raises(InvalidArgumentError, match="another endpoint_url"):
        await check(ELSEWHERE, STATE_AZURE_ENDPOINT_URL="https://other.example.org")


async def test_one_with_a_password_in_its_endpoint_is_refused_without_being_shown():
    with pytest.raises(InvalidArgumentError, match="holds more than an address") as caught:
        await check(ELSEWHERE.replace("://", "://joe:hunter2@"))
    assert "hunter2" not in str(caught.value)


class Telling:
    """A client of an account that tells what it is, or refuses to."""

    scheme, primary_hostname = "https", "one.blob.core.windows.net"

    def __init__(self, told: dict[str, object] | HttpResponseError) -> None:
        self.told = told
        self.times = 0

    def get_container_client(self, name: str) -> Telling:
        return self

    async def get_account_information(self) -> dict[str, object]:
        self.times += 1
        if isinstance(self.told, HttpResponseError):
            raise self.told
        return self.told


@pytest.fixture
def of_account(monkeypatch: pytest.MonkeyPatch) -> Callable[[Telling], AzureDriver]:
    monkeypatch.setattr("statepath_azure.driver._asked", set())

    def make(client: Telling) -> AzureDriver:
        config = parse(StateURL.parse("az://con/x"))
        return AzureDriver(client, Found(), config)  # type: ignore[arg-type]  # what of it is used

    return make


async def test_an_account_with_a_hierarchical_namespace_is_refused(
    of_account: Callable[[Telling], AzureDriver],
) -> None:
    client = Telling({"is_hns_enabled": True})
    with pytest.raises(UnsupportedError, match="use an account without one") as caught:
        await of_account(client)._check_account()
    assert caught.value.code == "unsorted"


@pytest.mark.parametrize("told", [{"is_hns_enabled": False}, {}, HttpResponseError("not by a token")])
async def test_any_other_and_one_that_does_not_tell_is_asked_once(
    of_account: Callable[[Telling], AzureDriver], told: dict[str, object] | HttpResponseError
) -> None:
    client = Telling(told)
    for _ in range(2):
        await of_account(client)._check_account()
    assert client.times == 1


async def test_one_that_failed_to_tell_is_asked_again(of_account: Callable[[Telling], AzureDriver]) -> None:
    busy = HttpResponseError("busy")
    busy.status_code = 503
    client = Telling(busy)
    await of_account(client)._check_account()
    client.told = {"is_hns_enabled": True}
    with pytest.raises(UnsupportedError):
        await of_account(client)._check_account()


class Failing:
    """A client that cannot be closed in order."""

    scheme, primary_hostname = "https", "one.blob.core.windows.net"

    def get_container_client(self, name: str) -> None:
        pass

    async def close(self) -> None:
        raise OSError


class Issuing:
    """What issues tokens, over connections of its own; at the moment it knows nobody."""

    closed = False

    async def get_token_info(self, *scopes: str, **options: object) -> None:
        lacking = SimpleNamespace(status_code=404, reason="Not Found", headers={}, text=str)
        raise ClientAuthenticationError("no such identity", response=lacking)

    async def close(self) -> None:
        self.closed = True


async def test_the_login_s_connections_are_given_back_though_the_client_s_cannot_be():
    login = Issuing()
    config = parse(StateURL.parse("az://con/x"))
    await AzureDriver(Failing(), Found(token=Login(login)), config).close()  # type: ignore[arg-type]  # what of it is used
    assert login.closed


async def test_an_identity_that_is_not_known_is_not_a_blob_that_is_missing():
    found = Found("https://one.blob.core.windows.net", token=Login(Issuing()))
    config = parse(StateURL.parse("az://con/x"))
    driver = AzureDriver(_client(config, found), found, config)
    with pytest.raises(UnavailableError, match="no token was issued for now") as caught:
        await driver.get("x/journal/floor", None)
    assert caught.value.code == "not_sent"
    await driver.close()
