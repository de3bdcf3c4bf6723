"""The schema in the database: numbered SQL files, each run once, all in one transaction under a lock."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from statepath.errors import AccessDeniedError, ThrottledError, UnsupportedError

from statepath_postgres.config import SCHEME
from statepath_postgres.connections import HOLD, LOCK_TIMEOUT, Connection, Connections, in_transaction

_log = logging.getLogger("statepath.postgres")

_LOCK: Final = 0x7374_6174_6570_6174
"""The key of the advisory lock that lets one server at a time change the schema."""

_FILE: Final = re.compile(r"(\d{4})_\w+\.sql")
_WAIT: Final = f"SELECT set_config('lock_timeout', '0', true), {HOLD}"
# Whoever commits waits behind a change of the tables that itself waits, for pg_dump, say.
_HURRY: Final = "SET LOCAL lock_timeout TO DEFAULT"
# Not `CREATE SCHEMA IF NOT EXISTS`: that takes a right on the database, which the owner of a schema need not have.
_BEGINNING: Final = """\
DO $schema$ BEGIN
IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'statepath') THEN
CREATE SCHEMA statepath;
END IF;
END $schema$;
CREATE TABLE IF NOT EXISTS statepath.migrations (
    version integer PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now()
);
"""
# Not `to_regclass`: that may remember that the schema was missing before the lock was waited for.
_EXISTS: Final = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'statepath' AND c.relname = 'migrations'
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, from the version before it."""

    version: int
    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """Every step, in order."""
    found = (
        Migration(int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in files("statepath_postgres.migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    )
    return tuple(sorted(found, key=lambda migration: migration.version))


def script() -> str:
    """What a person runs with psql to make the schema, or to bring it up to date; twice does no harm."""
    parts = [
        "-- statepath: its schema in PostgreSQL. Run it as the role that is to own it; it changes all or nothing.",
        "BEGIN ISOLATION LEVEL READ COMMITTED;",
        f"SELECT pg_advisory_xact_lock({_LOCK});",
        f"SET LOCAL lock_timeout = {round(LOCK_TIMEOUT * 1000)};",  # as _HURRY: here the default is no limit
        _BEGINNING,
    ]
    for migration in migrations():
        parts += [
            f"-- {migration.name}",
            "DO $migration$ BEGIN",
            f"IF NOT EXISTS (SELECT FROM statepath.migrations WHERE version = {migration.version}) THEN",
            migration.sql.strip(),
            _mark(migration),
            "END IF;",
            "END $migration$;",
            "",
        ]
    return "\n".join([*parts, "COMMIT;", ""])


def _mark(migration: Migration) -> str:
    return f"INSERT INTO statepath.migrations (version) VALUES ({migration.version});"  # noqa: S608 - a number


async def version_of(connection: Connection) -> int:
    """The version of the schema that the database has; 0: none.

    Raises:
        UnsupportedError: a newer program made it (`newer_format`).
    """
    if not await connection.fetchval(_EXISTS):
        return 0
    version = int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM statepath.migrations"))
    if version > migrations()[-1].version:
        raise UnsupportedError(
            f"the schema in the database has version {version}, and this program knows versions up to "
            f"{migrations()[-1].version}; update statepath-postgres",
            backend=SCHEME,
            code="newer_format",
        )
    return version


async def upgrade(connections: Connections) -> None:
    """Bring the schema up to date. Of several servers that start at once, one does it and the others wait.

    Raises:
        UnsupportedError: a newer program made it (`newer_format`).
        AccessDeniedError: the role may not, and it has to be done.
        ThrottledError: somebody uses the tables for long.
    """
    newest = migrations()[-1].version
    async with connections.use() as connection:
        if await version_of(connection) == newest:
            return
    try:
        # Whatever the default is behind a pooler: the others see what was made while they waited for the lock.
        async with connections.use() as connection, in_transaction(connection, isolation="read_committed"):
            await connection.execute(_WAIT)
            await connection.fetchval("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(_HURRY)
            version = await version_of(connection)
            if not version:
                await connection.execute(_BEGINNING)
            for migration in migrations():
                if migration.version > version:
                    await connection.execute(migration.sql)
                    await connection.execute(_mark(migration))
                    _log.info("applied %s to the schema in %s", migration.name, connections.url)
    except AccessDeniedError as error:
        raise AccessDeniedError(
            f"the schema in {connections.url} has to be made or upgraded, and this role may not: {error}; "
            "have it done with: statepath migrate sql | psql",
            backend=SCHEME,
        ) from error
    except ThrottledError as error:
        raise ThrottledError(
            f"the schema in {connections.url} could not be upgraded while others use it: {error}; open the store again "
            "when long transactions, such as that of pg_dump, have ended",
            backend=SCHEME,
        ) from error
