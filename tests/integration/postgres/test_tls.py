"""TLS with a server that has a certificate, and lets nobody in without: what `sslmode` promises is kept."""

import asyncio
import os
from contextlib import aclosing
from urllib.parse import quote
from uuid import uuid4

import pytest
import statepath
import trustme
from servers.postgres import running_with_tls
from statepath.errors import AccessDeniedError, InvalidArgumentError, UnavailableError

pytestmark = pytest.mark.slow

ENCRYPTED = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE ssl AND application_name = $1"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority):
    """Its certificate is for `localhost`, and not for the address."""
    with running_with_tls(authority, "localhost") as server:
        yield server


@pytest.fixture
def roots(authority, tmp_path):
    """The file that says whom to trust."""
    authority.cert_pem.write_to_path(str(tmp_path / "root.pem"))
    return tmp_path / "root.pem"


@pytest.fixture
def place(server):
    """The state path of a new store at the name of the certificate."""
    return server.url(store=uuid4().hex).replace("127.0.0.1", "localhost")


async def use(path):
    """Save, and read again; how many connections of ours the server calls encrypted."""
    name = uuid4().hex
    async with statepath.open(f"{path}&application_name={name}") as store:
        await store.collection("tasks").put({"id": "a"})
        async with store._engine.backend._connections.use() as connection:
            encrypted = await connection.fetchval(ENCRYPTED, name)
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("tasks").get("a") == {"id": "a"}
    return encrypted


async def refused(path, kind, match):
    with pytest.raises(kind, match=match) as caught:
        await statepath.open(path)
    return caught.value


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_server_that_is_who_it_says_is_let_in(place, roots, mode):
    assert await use(f"{place}&sslmode={mode}&sslrootcert={quote(str(roots))}") >= 2


async def test_whom_to_trust_may_be_said_in_the_home(place, roots, monkeypatch):
    monkeypatch.setenv("HOME", str(roots.parent))
    assert await use(f"{place}&sslmode=verify-full&sslrootcert=~/{roots.name}") >= 2


@pytest.mark.parametrize("mode", ["require", "prefer", None])
async def test_a_connection_is_encrypted_where_the_server_can(place, mode):
    assert await use(place if mode is None else f"{place}&sslmode={mode}") >= 2


async def test_whom_the_system_trusts_is_let_in(place, roots, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert await use(f"{place}&sslrootcert=system") >= 2
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    assert await use(f"{place}&sslmode=verify-full&sslnegotiation=direct") >= 2


async def test_whom_the_system_does_not_trust_is_refused(place):
    error = await refused(
        f"{place}&sslrootcert=system", UnavailableError, "cannot be made safe: .*certificate"
    )
    assert (error.code, error.retryable) == ("tls", False)


async def test_whom_the_system_trusts_is_refused_under_another_s_name(place, roots, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    path = f"{place.replace('localhost', '127.0.0.1')}&sslrootcert=system"
    await refused(path, UnavailableError, "not valid for '127.0.0.1'")


async def test_a_listener_has_the_tls_of_its_own_url(server, place, roots, monkeypatch, caplog):
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    direct = server.url().replace("127.0.0.1", "localhost") + "?sslrootcert=system&application_name=listener"
    path = f"{place}&sslmode=require&pgbouncer=true&listen_dsn={quote(direct, safe='')}"
    async with (
        statepath.open(path) as store,
        statepath.open(path, readonly=True) as reader,
        aclosing(reader.watch()) as changes,
    ):
        following = asyncio.ensure_future(anext(changes))
        async with store._engine.backend._connections.use() as connection, asyncio.timeout(60):
            while not await connection.fetchval(ENCRYPTED, "listener"):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        await store.collection("tasks").put({"id": "a"})
        assert (await following).id == "a"
    assert not [record for record in caplog.records if record.name == "statepath.postgres"]


async def test_what_libpq_s_variables_say_of_tls_is_kept(place, roots, monkeypatch):
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(roots))
    assert await use(place) >= 2
    monkeypatch.setenv("PGSSLROOTCERT", "/nowhere/root.pem")
    await refused(place, InvalidArgumentError, "/nowhere/root.pem")


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_certificate_of_somebody_else_s_is_refused(place, tmp_path, mode):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    path = f"{place}&sslmode={mode}&sslrootcert={quote(str(tmp_path / 'other.pem'))}"
    error = await refused(
        path, UnavailableError, "cannot be made safe: .*certificate.*check sslmode, sslrootcert"
    )
    assert (error.code, error.retryable) == ("tls", False)


async def test_a_certificate_for_another_name_is_refused(server, place, roots):
    at_address = f"{place.replace('localhost', '127.0.0.1')}&sslrootcert={quote(str(roots))}"
    error = await refused(f"{at_address}&sslmode=verify-full", UnavailableError, "not valid for '127.0.0.1'")
    assert error.code == "tls"
    assert server.password not in str(error)
    assert await use(f"{at_address}&sslmode=verify-ca") >= 2


async def test_where_nobody_is_trusted_it_is_said(place, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    await refused(f"{place}&sslmode=verify-full", InvalidArgumentError, "root")


async def test_without_tls_such_a_server_lets_nobody_in(place):
    await refused(f"{place}&sslmode=disable", AccessDeniedError, "pg_hba.conf")


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_server_without_tls_is_not_used_where_it_is_asked_for(path, roots, mode):
    error = await refused(
        f"{path}&sslmode={mode}&sslrootcert={quote(str(roots))}",
        UnavailableError,
        "has no TLS; check sslmode",
    )
    assert (error.code, error.retryable) == ("tls", False)


async def test_a_client_shows_its_certificate(authority, roots, tmp_path, monkeypatch):
    with running_with_tls(authority, "localhost", clients="clientcert=verify-ca") as server:
        path = server.url(store=uuid4().hex).replace("127.0.0.1", "localhost")
        path += f"&sslmode=verify-full&sslrootcert={quote(str(roots))}"
        await refused(path, AccessDeniedError, "certificate")
        issued = authority.issue_cert("client")
        key = tmp_path / "client.key"
        os.close(os.open(key, os.O_CREAT, 0o600))
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
        shown = f"&sslcert={quote(str(tmp_path / 'client.pem'))}&sslkey={quote(str(key))}"
        assert await use(path + shown) >= 2
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        assert await use(path.replace(quote(str(roots)), "system") + shown) >= 2
