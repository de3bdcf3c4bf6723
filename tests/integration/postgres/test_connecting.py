"""Getting to a database: what is wrong is said at once, with what to do, and without the password."""

import asyncio
import logging
from urllib.parse import quote
from uuid import uuid4

import pytest
import statepath
from servers.postgres import session
from servers.process import free_port
from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    ThrottledError,
    UnavailableError,
)


async def refused(path, kind, match):
    with pytest.raises(kind, match=match) as caught:
        await statepath.open(path)
    return caught.value


async def test_a_wrong_password_is_told_and_not_shown(postgres, path):
    wrong = path.replace(postgres.password, "hunter2")
    error = await refused(wrong, AccessDeniedError, "password authentication failed.*check the user")
    seen = error
    while seen is not None:
        assert "hunter2" not in f"{seen} {seen!r}"
        seen = seen.__cause__


async def test_a_missing_database_is_told(postgres):
    await refused(
        postgres.url("nowhere"), InvalidArgumentError, '"nowhere" does not exist; create the database'
    )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_text_is_refused(postgres, encoding):
    name = f"d{uuid4().hex}"
    async with session(postgres.url()) as admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'")
        try:
            await refused(postgres.url(name), InvalidArgumentError, f"encoding {encoding}.*ENCODING 'UTF8'")
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("credentials", ["me:hunter2", "postgres:postgres"])
async def test_a_server_that_is_down_is_told_at_once(credentials):
    async with asyncio.timeout(60):
        await refused(
            f"postgresql://{credentials}@127.0.0.1:{free_port()}/db", UnavailableError, "cannot be reached"
        )


async def test_without_the_right_to_make_the_schema_it_is_said_who_may(postgres, database):
    role = f"r{uuid4().hex}"
    async with session(postgres.url(database)) as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            await refused(
                f"postgresql://{role}:secret@127.0.0.1:{postgres.port}/{database}",
                AccessDeniedError,
                "statepath migrate sql",
            )
        finally:
            await admin.execute(f"DROP ROLE {role}")


async def test_a_role_that_may_only_read_is_told_before_anything_is_saved(postgres, database):
    async with statepath.open(postgres.url(database)) as store:
        await store.collection("raw").put({"id": "a"})
    async with session(postgres.url()) as admin:
        await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await refused(
        postgres.url(database), AccessDeniedError, "default_transaction_read_only is on.*readonly=True"
    )
    async with statepath.open(postgres.url(database), readonly=True) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}


async def test_several_hosts_are_tried_in_their_order(postgres, path):
    several = path.replace("@127.0.0.1", f"@127.0.0.1:{free_port()},127.0.0.1")
    async with statepath.open(several) as store:
        assert await store.collection("raw").put({"id": "a"}) == 1


async def test_hosts_that_are_standbys_are_passed_over(postgres, path):
    error = await refused(f"{path}&target_session_attrs=standby", UnavailableError, "none of the hosts")
    assert postgres.password not in str(error)


async def test_the_variables_of_libpq_complete_the_state_path(postgres, path, connect):
    store = path.partition("store=")[2]
    backend = await connect(
        f"postgresql://?store={store}",
        PGHOST="127.0.0.1",
        PGPORT=str(postgres.port),
        PGUSER="statepath",
        PGPASSWORD=postgres.password,
        PGDATABASE="postgres",
    )
    await backend.write("a", b"A")
    assert backend.url == f"postgresql://127.0.0.1:{postgres.port}/postgres?store={store}"
    assert (await (await connect(path, readonly=True)).read("a")).data == b"A"


async def test_a_unix_socket_will_do(postgres, path, connect):
    store = path.partition("store=")[2]
    user = f"statepath:{postgres.password}"
    backend = await connect(
        f"postgresql://{user}@/postgres?host={postgres.folder}&port={postgres.port}&store={store}"
    )
    await backend.write("a", b"A")
    assert (await (await connect(path, readonly=True)).read("a")).data == b"A"


async def test_a_unix_socket_may_stand_before_the_database(postgres, path, connect):
    store = path.partition("store=")[2]
    folder = f"{quote(str(postgres.folder), safe='')}:{postgres.port}"
    backend = await connect(f"postgresql://statepath@{folder}/postgres?store={store}")
    await backend.write("a", b"A")
    assert (await (await connect(path, readonly=True)).read("a")).data == b"A"


async def test_a_file_of_passwords_may_be_in_the_home(postgres, path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    file.write_text(f"*:*:*:*:{postgres.password}\n")
    async with statepath.open(path.replace(f":{postgres.password}@", "@") + "&passfile=~/passwords"):
        pass


async def test_a_missing_file_of_the_database_past_the_pooler_is_named(path):
    direct = quote("postgresql://me@direct/a?sslmode=verify-full&sslrootcert=/nowhere/root.pem", safe="")
    error = await refused(
        f"{path}&pgbouncer=true&listen_dsn={direct}",
        InvalidArgumentError,
        "sslrootcert names .*/nowhere/root.pem",
    )
    assert "//direct:5432/a" in str(error)


async def test_an_alias_of_the_scheme_is_the_same_store(path):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
    async with statepath.open(path.replace("postgresql://", "postgres://"), readonly=True) as reader:
        assert await reader.collection("raw").get("a") == {"id": "a"}


async def test_stores_in_one_database_do_not_see_each_other(postgres):
    one, other = (postgres.url(store=uuid4().hex) for _ in range(2))
    async with statepath.open(one) as first, statepath.open(other) as second:
        await first.collection("raw").put({"id": "a"})
        await second.collection("raw").put({"id": "b"})
        assert (first.seq, second.seq) == (1, 1)
        assert await second.collection("raw").get("a") is None


@pytest.mark.parametrize("setting", ["synchronous_commit"])
async def test_a_server_that_loses_acknowledged_commits_is_warned_of(
    postgres, database, connect, caplog, setting
):
    async with session(postgres.url(database)) as admin:
        await admin.execute(f"ALTER DATABASE {database} SET {setting} = off")
    with caplog.at_level(logging.WARNING, "statepath.postgres"):
        backend = await connect(postgres.url(database))
    assert f"{setting} is off" in caplog.text
    assert not backend.capabilities.durable


async def test_a_server_that_keeps_its_commits_is_not_warned_of(path, connect, caplog):
    backend = await connect(path)
    assert caplog.text == ""
    assert backend.capabilities.durable


async def test_a_lock_that_is_held_too_long_is_told_and_nothing_is_written(postgres, path, around):
    async with statepath.open(f"{path}&lock_timeout=0.1&timeout=3", autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        async with around.transaction():
            name = path.partition("store=")[2]
            await around.execute("SELECT FROM statepath.stores WHERE name = $1 FOR UPDATE", name)
            with pytest.raises(ThrottledError, match="holds the lock for too long"):
                await store.collection("raw").put({"id": "b"})
        assert await store.collection("raw").put({"id": "c"}) == 2
        assert await store.collection("raw").get("b") is None


@pytest.mark.parametrize(
    ("said", "told"), [("", "7500ms"), ("&timeout=4", "1s"), ("&lock_timeout=0.1", "100ms")]
)
async def test_a_commit_hears_of_a_lock_before_it_stops_waiting_for_an_answer(path, said, told):
    async with statepath.open(f"{path}{said}", autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        assert await store._engine.log._held._connection.fetchval("SHOW lock_timeout") == told


async def test_a_reading_connection_cannot_change_anything_whatever_it_tries(path, connect):
    await connect(path)
    reader = await connect(path, readonly=True)
    with pytest.raises((ReadOnlyError, ThrottledError)):
        async with reader._connections.use() as connection:
            await connection.execute("DELETE FROM statepath.stores")


async def test_connections_come_back_after_the_server_has_ended_them(path, connect, around):
    backend = await connect(path)
    await backend.write("a", b"A")
    await around.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'statepath' AND pid <> pg_backend_pid()"
    )
    assert (await backend.read("a")).data == b"A"


async def test_what_was_refused_while_nothing_could_be_saved_is_taken_afterwards(postgres, database, connect):
    backend = await connect(postgres.url(database))
    async with session(postgres.url()) as admin:
        await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
        )
        with pytest.raises(NotFoundError):
            await backend.read("a")  # by a session that began meanwhile
        with pytest.raises(ThrottledError, match="takes no writes"):
            await backend.write("a", b"A")
        await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    await backend.write("a", b"A")
    assert (await backend.read("a")).data == b"A"


async def test_a_connection_that_is_closed_has_nothing_left_on_the_server(postgres, database, connect):
    backend = await connect(postgres.url(database))
    following = aiter(backend.commit_log().follow(0))
    waiting = asyncio.ensure_future(anext(following))
    async with session(postgres.url()) as admin:

        async def connections_become(*numbers):
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
            )
            for _ in range(2000):
                if await admin.fetchval(query, database) in numbers:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(numbers)

        await connections_become(2, 3)
        waiting.cancel()
        await backend.close()
        await connections_become(0)
