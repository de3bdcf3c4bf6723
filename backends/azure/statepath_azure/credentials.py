"""Who we are to Azure: found as adlfs finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import AzureError
from statepath.errors import ConfigurationError, InvalidArgumentError
from statepath.objectstore import Asked

from statepath_azure.config import AzureConfig, account
from statepath_azure.failures import NotIssued, no_credentials

T = TypeVar("T")

_HOST: Final = "blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class Found:
    """What adlfs found: a connection string, or where the account is and one way to be let in, or none (anonymous).

    Attributes:
        token: what issues tokens; whoever has this closes it.
    """

    url: str = ""
    account_name: str | None = None
    connection_string: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    token: Login | None = None


class Login:
    """A credential of azure-identity. What it is answered instead of a token is told from what the service answers: who
    does not know an identity does not say that there is no such blob."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential
        self._before = False

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        return await self._issued(self._credential.get_token(*scopes, **options))

    async def get_token_info(self, *scopes: str, **options: Any) -> Any:
        return await self._issued(self._credential.get_token_info(*scopes, **options))

    async def close(self) -> None:
        await self._credential.close()

    async def _issued(self, token: Awaitable[T]) -> T:
        try:
            issued = await token
        except AzureError as error:
            raise NotIssued(error, before=self._before) from None
        self._before = True
        return issued


class _Looked(Exception):  # noqa: N818 - a signal that the search is over
    def __init__(self, fs: Any) -> None:
        super().__init__()
        self.fs = fs


class _Search(AzureBlobFileSystem):  # type: ignore[misc]  # it is not typed
    """Ends before the file system connects: its connections are closed when the process ends only, which a forked
    process then waits for, forever."""

    def do_connect(self) -> NoReturn:
        raise _Looked(self)


def find(config: AzureConfig, asked: Asked) -> Found:
    """The credentials, from the `AZURE_…` variables or the identity of the machine or its user.

    Raises:
        AccessDeniedError: there is nothing that can be used.
        ConfigurationError: no storage account is named.
        InvalidArgumentError: what is found contradicts the state path.
    """
    fs = _search(config, asked)
    if fs.connection_string is not None:
        return Found(connection_string=fs.connection_string)
    if fs.account_name is None and config.endpoint_url is None:
        raise ConfigurationError(
            f"no storage account is named for {asked.scheme}://{asked.container}; give ?account_name=…, or set"
            " STATE_AZURE_ACCOUNT_NAME",
            backend=asked.scheme,
            code="no_account",
        )
    if fs.account_name is not None:
        account("AZURE_STORAGE_ACCOUNT_NAME", fs.account_name)
    url = config.endpoint_url or f"https://{fs.account_name}.{_HOST}"
    if fs.credential is not None:
        if urlsplit(url).scheme != "https":
            raise no_credentials(asked, "tokens are not sent over http")
        return Found(url, token=Login(fs.credential))
    if fs.account_key is not None:
        if fs.account_name is None:
            raise no_credentials(asked, "there is a key, and no account_name")
        return Found(url, account_name=fs.account_name, key=fs.account_key)
    if fs.sas_token is not None:
        sas = fs.sas_token.lstrip("?")
        if "sig=" not in sas:
            raise InvalidArgumentError(
                "AZURE_STORAGE_SAS_TOKEN is no SAS token; copy it anew", backend=asked.scheme
            )
        return Found(url, sas=sas)
    return Found(url)


def _search(config: AzureConfig, asked: Asked) -> Any:
    options: dict[str, Any] = {
        "account_name": config.account_name,
        "asynchronous": True,
        "loop": asyncio.get_running_loop(),
        "skip_instance_cache": True,
    }
    try:
        _Search(**options)
    except _Looked as looked:
        return looked.fs
    except ValueError as error:
        raise no_credentials(asked, type(error).__name__) from None
    raise AssertionError("adlfs did not connect")
