"""The schema: made once, by one of those who start together; or by a person, for a role that may not."""

import asyncio
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import statepath
from servers.postgres import session
from statepath.errors import ThrottledError, UnsupportedError
from statepath_postgres.schema import _LOCK, migrations, script

PAGE = (Path(__file__).parents[3] / "docs" / "postgres.md").read_text()
TO_WRITE, TO_READ, FIND, DELETE = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

OLDER = """
    ALTER TABLE statepath.log DROP COLUMN prev, DROP COLUMN made;
    DELETE FROM statepath.migrations WHERE version > 4
"""
DUMPED = "BEGIN; LOCK TABLE statepath.log IN ACCESS SHARE MODE"


@pytest.fixture
async def role(postgres, database):
    """A role that may connect, and nothing else."""
    name = f"r{uuid4().hex}"
    async with session(postgres.url(database)) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        yield name
        await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_many_servers_that_start_at_once_make_it_once(postgres, database, connect):
    backends = await asyncio.gather(*(connect(postgres.url(database)) for _ in range(6)))
    await asyncio.gather(*(backend.write(f"k/{n}", b"x") for n, backend in enumerate(backends)))
    assert [entry.key async for entry in backends[0].list_keys("")] == [f"k/{n}" for n in range(6)]
    async with session(postgres.url(database)) as admin:
        applied = await admin.fetch("SELECT version FROM statepath.migrations ORDER BY version")
    assert [row["version"] for row in applied] == [migration.version for migration in migrations()]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_it_is_made_once_whatever_isolation_is_the_default_behind_a_pooler(
    postgres, database, connect, by_hand
):
    path = postgres.url(database)

    async def make():
        if by_hand:
            async with session(path) as owner:
                await owner.execute(script())
        await connect(f"{path}?pgbouncer=true")

    async with session(path) as admin:
        await admin.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
        await asyncio.gather(*(make() for _ in range(4)))
        assert await admin.fetchval("SELECT count(*) FROM statepath.migrations") == len(migrations())


async def test_who_makes_it_is_waited_for_longer_than_the_server_lets_transactions_take(
    postgres, database, connect, hurried
):
    async with session(postgres.url(database)) as admin:
        await hurried()
        async with admin.transaction():
            await admin.fetchval("SELECT pg_advisory_xact_lock($1)", _LOCK)
            connecting = asyncio.ensure_future(connect(postgres.url(database)))
            await admin.execute("SELECT pg_sleep(2)")
    await (await connecting).write("a", b"A")


@pytest.mark.parametrize("by_hand", [False, True])
async def test_the_owner_of_an_empty_schema_needs_no_right_to_make_one(
    postgres, database, connect, role, by_hand
):
    async with session(postgres.url(database)) as admin:
        await admin.execute(f"CREATE SCHEMA statepath AUTHORIZATION {role}")
    path = f"postgresql://{role}:secret@127.0.0.1:{postgres.port}/{database}"
    if by_hand:
        async with session(path) as owner:
            await owner.execute(script())
    await (await connect(path)).write("a", b"A")


async def test_a_migration_that_fails_leaves_nothing(postgres, database, connect):
    async with session(postgres.url(database)) as admin:
        await admin.execute("CREATE SCHEMA statepath; CREATE TABLE statepath.objects ()")
        with pytest.raises(Exception, match='"objects" already exists'):
            await connect(postgres.url(database))
        assert await admin.fetchval("SELECT to_regclass('statepath.stores')") is None
        assert await admin.fetchval("SELECT to_regclass('statepath.migrations')") is None


async def test_commits_do_not_wait_long_behind_an_upgrade_that_waits_for_a_dump(postgres, database, connect):
    await connect(postgres.url(database))
    async with session(postgres.url(database)) as dump, session(postgres.url(database)) as writer:
        await dump.execute(OLDER)
        await dump.execute(DUMPED)
        path = f"{postgres.url(database)}?lock_timeout=0.5&statement_timeout=50"
        upgrading = asyncio.ensure_future(connect(path))
        while not await writer.fetchval(  # noqa: ASYNC110 - nothing tells
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
        ):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(40):
            await writer.execute("DELETE FROM statepath.log")
        with pytest.raises(ThrottledError, match=r"could not be upgraded.*pg_dump"):
            await upgrading


async def test_nor_do_they_behind_one_by_hand(postgres, database, connect, monkeypatch):
    monkeypatch.setattr("statepath_postgres.schema.LOCK_TIMEOUT", 0.1)
    await connect(postgres.url(database))
    async with session(postgres.url(database)) as dump, session(postgres.url(database)) as owner:
        await dump.execute(OLDER)
        await dump.execute(DUMPED)
        async with asyncio.timeout(40):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await owner.execute(script())


async def test_a_schema_of_a_newer_version_is_left_alone(postgres, database, connect):
    await connect(postgres.url(database))
    async with session(postgres.url(database)) as admin:
        await admin.execute("INSERT INTO statepath.migrations (version) VALUES (9999)")
    for readonly in (False, True):
        with pytest.raises(UnsupportedError, match=r"version 9999.*update statepath-postgres") as caught:
            await connect(postgres.url(database), readonly=readonly)
        assert caught.value.code == "newer_format"


async def test_a_role_without_ddl_rights_works_once_the_schema_is_there(postgres, database, role):
    async with session(postgres.url(database)) as admin:
        await admin.execute(script())
        await admin.execute(TO_WRITE.replace("agents", role))
    path = f"postgresql://{role}:secret@127.0.0.1:{postgres.port}/{database}"
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.append_log("s", "text\n")
        await store.snapshot()
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("raw").get("a") == {"id": "a"}


async def test_a_role_that_may_only_read_reads(postgres, database, role):
    async with statepath.open(postgres.url(database)) as store:
        await store.collection("raw").put({"id": "a"})
    async with session(postgres.url(database)) as admin:
        await admin.execute(TO_READ.replace("readers", role))
    path = f"postgresql://{role}:secret@127.0.0.1:{postgres.port}/{database}"
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("raw").get("a") == {"id": "a"}


async def test_the_printed_script_makes_the_schema_with_psql_and_twice_does_no_harm(
    postgres, database, connect
):
    for _ in range(2):
        run = subprocess.run(
            [postgres.binaries / "psql", "-v", "ON_ERROR_STOP=1", "-q", postgres.url(database)],
            input=script(),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
    backend = await connect(postgres.url(database))
    await backend.write("a", b"A")


async def test_a_reader_of_a_database_without_the_schema_finds_nothing_and_makes_nothing(
    postgres, database, connect
):
    reader = await connect(postgres.url(database), readonly=True)
    assert [entry.key async for entry in reader.list_keys("")] == []
    async with session(postgres.url(database)) as admin:
        assert await admin.fetchval("SELECT to_regnamespace('statepath')") is None


async def test_the_queries_of_the_page_find_and_delete(postgres, database):
    url = postgres.url(database, store="production")
    async with statepath.open(url) as store, statepath.open(url.replace("production", "trial")) as trial:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "status": "failed"})
        await tasks.put({"id": "b", "status": "completed"})
        await trial.collection("tasks").put({"id": "c", "status": "failed", "text": "x" * 9_000_000})
        await store.flush()
        await trial.flush()
    async with session(postgres.url(database)) as admin:
        assert [tuple(row) for row in await admin.fetch(FIND)] == [("a", "failed")]
        await admin.execute(DELETE)
        assert [row["name"] for row in await admin.fetch("SELECT name FROM statepath.stores")] == [
            "production"
        ]
        assert await admin.fetchval("SELECT count(*) FROM statepath.pieces") == 0
        assert await admin.fetchval("SELECT count(*) FROM statepath.log") == 2
        assert await admin.fetchval("SELECT count(*) FROM statepath.documents") == 2


async def test_a_dump_is_a_store(postgres, database, tmp_path):
    async with statepath.open(postgres.url(database)) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.snapshot()
        await store.collection("tasks").put({"id": "b"})
        dumped = _run(
            postgres, "pg_dump", "--schema", "statepath", "--format", "custom", postgres.url(database)
        )
        await store.collection("tasks").put({"id": "c"})
    again = f"again_{database}"
    async with session(postgres.url()) as admin:
        await admin.execute(f"CREATE DATABASE {again}")
        try:
            (tmp_path / "dump").write_bytes(dumped)
            _run(postgres, "pg_restore", "--dbname", postgres.url(again), str(tmp_path / "dump"))
            async with statepath.open(postgres.url(again)) as store:
                assert [task["id"] async for task in store.collection("tasks")] == ["a", "b"]
                assert await store.verify() == []
                assert await store.collection("tasks").put({"id": "d"}) == 3
        finally:
            await admin.execute(f"DROP DATABASE {again} WITH (FORCE)")


def _run(postgres, program, *arguments):
    done = subprocess.run([postgres.binaries / program, *arguments], capture_output=True, check=True)
    return done.stdout
