"""The schema: made once, by one of those who start together; or by a person, for a role that may not."""

import asyncio
import subprocess
from uuid import uuid4

import pytest
import statepath
from postgres_server import session
from statepath.errors import UnsupportedError
from statepath_postgres.schema import migrations, script

GRANTS = """
GRANT USAGE ON SCHEMA statepath TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA statepath TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA statepath TO {role};
"""


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


async def test_a_migration_that_fails_leaves_nothing(postgres, database, connect):
    async with session(postgres.url(database)) as admin:
        await admin.execute("CREATE SCHEMA statepath; CREATE TABLE statepath.objects ()")
        with pytest.raises(Exception, match='"objects" already exists'):
            await connect(postgres.url(database))
        assert await admin.fetchval("SELECT to_regclass('statepath.stores')") is None
        assert await admin.fetchval("SELECT to_regclass('statepath.migrations')") is None


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
        await admin.execute(GRANTS.format(role=role))
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
        await admin.execute(
            f"GRANT USAGE ON SCHEMA statepath TO {role};"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA statepath TO {role}"
        )
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
