"""What a state path may say of a database, and the variables that are asked where it is silent, for people."""

from __future__ import annotations

from typing import Final

from statepath.backend import Parameter, StateURL

from statepath_postgres.connections import CONNECT_TIMEOUT, LOCK_TIMEOUT, POOL, STATEMENT_TIMEOUT, TIMEOUT

_VARIABLES: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "database": "PGDATABASE",
    "store": None,
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "pool": "STATE_POSTGRES_POOL",
    "timeout": "STATE_POSTGRES_TIMEOUT",
    "statement_timeout": "STATE_POSTGRES_STATEMENT_TIMEOUT",
    "lock_timeout": "STATE_POSTGRES_LOCK_TIMEOUT",
    "pgbouncer": "STATE_POSTGRES_PGBOUNCER",
    "listen_dsn": "STATE_POSTGRES_LISTEN_DSN",
}
_DEFAULTS: Final = {
    "store": "default",
    "passfile": "~/.pgpass",
    "application_name": "statepath",
    "connect_timeout": f"{CONNECT_TIMEOUT:g}",
    "pool": f"{POOL}",
    "timeout": f"{TIMEOUT:g}",
    "statement_timeout": f"{STATEMENT_TIMEOUT:g}",
    "lock_timeout": f"{LOCK_TIMEOUT:g}",
    "pgbouncer": "false",
}
_SECRETS: Final = ("password", "listen_dsn")


def parameters(url: StateURL) -> list[Parameter]:
    """Those before the query included."""
    said = {
        "host": url.host,
        "port": None if url.port is None else str(url.port),
        "user": url.user,
        "password": url.password,
        "database": url.path.strip("/") or None,
        **url.query,
    }
    return [
        Parameter(
            name,
            () if variable is None else (variable,),
            said.get(name),
            _DEFAULTS.get(name),
            secret=name in _SECRETS,
        )
        for name, variable in _VARIABLES.items()
    ]
