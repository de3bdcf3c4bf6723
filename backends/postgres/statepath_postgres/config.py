"""From the state path to a configuration, without input, output or any environment but the one given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from urllib.parse import quote, unquote

from statepath.backend import StateURL
from statepath.errors import InvalidArgumentError

from statepath_postgres.tls import SYSTEM

T = TypeVar("T")

Hosts = tuple[tuple[str, int | None], ...]

SCHEME: Final = "postgresql"

_TLS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation")
FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
"""Those that name a file."""

_PARAMETERS: Final = (
    "store",
    "host",
    "port",
    *_TLS,
    "target_session_attrs",
    "passfile",
    "application_name",
    "pool",
    "timeout",
    "connect_timeout",
    "statement_timeout",
    "lock_timeout",
    "pgbouncer",
    "listen_dsn",
)
_ENVIRONMENT: Final = {
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCRL": "sslcrl",
    "PGSSLNEGOTIATION": "sslnegotiation",
}
_SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSIONS: Final = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
_PORT: Final = 5432
_HOST: Final = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<folder>/.*?)|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?", re.DOTALL
)
_PORTS: Final = re.compile(r":\d+(?:,:\d+)*")


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """Where the database is, and how it is used. `None` and empty: neither the URL nor the environment says.

    Attributes:
        hosts: names, addresses, or folders of a Unix socket, each with its port; tried in this order. The name is empty
            where only a port was said.
        store: which of the stores in the database.
        tls: libpq's `ssl…` parameters, by name.
        session: which of the hosts will do: libpq's `target_session_attrs`.
        pool: how many connections at most, beside the one that commits and the one that listens.
        timeout: for how many seconds what gets no clear answer is tried again.
        connect_timeout, statement_timeout, lock_timeout: in seconds; a `connect_timeout` of 0 has no end.
        pgbouncer: whether the hosts are a pooler that gives each transaction another session.
        listen_dsn: the database past the pooler, for notifications.
        listener: the same as a configuration.
    """

    hosts: Hosts = ()
    database: str = ""
    user: str = ""
    password: str | None = field(default=None, repr=False)
    store: str = "default"
    tls: tuple[tuple[str, str], ...] = ()
    session: str = ""
    passfile: str | None = None
    application: str = ""
    pool: int | None = None
    timeout: float | None = None
    connect_timeout: float | None = None
    statement_timeout: float | None = None
    lock_timeout: float | None = None
    pgbouncer: bool | None = None
    listen_dsn: str | None = field(default=None, repr=False)
    listener: PostgresConfig | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The state path as a person may see it."""
        hosts = ",".join(f"{_shown(host)}:{port or _PORT}" for host, port in self.hosts)
        return f"{SCHEME}://{hosts}/{quote(self.database, safe='')}?store={quote(self.store)}"


def parse(url: StateURL) -> PostgresConfig:
    """The configuration that a URL `postgresql://user:password@host:port/database?store=agents` says.

    Raises:
        InvalidArgumentError: a part of it cannot be used, or a parameter is unknown.
    """
    query = url.query
    _check_password_ended(url)
    url.only(*_PARAMETERS)
    database = url.path.strip("/")
    if "/" in database:
        raise InvalidArgumentError(
            f"the path of a {url.scheme} URL is one database; write {SCHEME}://host/database?store=name",
            backend=SCHEME,
        )
    store = query.get("store", "default")
    if not 0 < len(store.encode()) <= 200 or not store.isprintable():
        raise InvalidArgumentError(
            "store is a name of 1 to 200 bytes without control characters", backend=SCHEME
        )
    return PostgresConfig(
        hosts=_hosts(_authority(url), query.get("host", ""), query.get("port", "")),
        database=database,
        user=url.user or "",
        password=url.password,
        store=store,
        tls=_together({name: _tls(name, query[name]) for name in _TLS if name in query}),
        session=_session("target_session_attrs", query.get("target_session_attrs", "")),
        passfile=query.get("passfile"),
        application=query.get("application_name", ""),
        pool=_given(query, "pool", _count),
        timeout=_given(query, "timeout", _seconds),
        connect_timeout=_given(query, "connect_timeout", _limit),
        statement_timeout=_given(query, "statement_timeout", _seconds),
        lock_timeout=_given(query, "lock_timeout", _seconds),
        pgbouncer=_given(query, "pgbouncer", _boolean),
        listen_dsn=_given(query, "listen_dsn", _dsn),
        listener=_listener(query.get("listen_dsn")),
    )


def complete(config: PostgresConfig, env: Mapping[str, str]) -> PostgresConfig:
    """The configuration completed with the variables that libpq knows, and our own."""
    config = replace(
        config,
        hosts=_complete_hosts(config.hosts, env),
        database=config.database or env.get("PGDATABASE", ""),
        user=config.user or env.get("PGUSER", ""),
        password=(env.get("PGPASSWORD") or None) if config.password is None else config.password,
        session=config.session or _session("PGTARGETSESSIONATTRS", env.get("PGTARGETSESSIONATTRS", "")),
        passfile=(env.get("PGPASSFILE") or None) if config.passfile is None else config.passfile,
        application=config.application or env.get("PGAPPNAME", ""),
    )
    said = dict(config.tls)
    tls = {
        name: _tls(variable, env[variable]) for variable, name in _ENVIRONMENT.items() if env.get(variable)
    }
    listen_dsn = _or_env(config.listen_dsn, env, "STATE_POSTGRES_LISTEN_DSN", _dsn)
    return replace(
        config,
        database=config.database or config.user,
        tls=_together(tls | said),
        connect_timeout=_or_env(config.connect_timeout, env, "PGCONNECT_TIMEOUT", _limit),
        pool=_or_env(config.pool, env, "STATE_POSTGRES_POOL", _count),
        timeout=_or_env(config.timeout, env, "STATE_POSTGRES_TIMEOUT", _seconds),
        statement_timeout=_or_env(
            config.statement_timeout, env, "STATE_POSTGRES_STATEMENT_TIMEOUT", _seconds
        ),
        lock_timeout=_or_env(config.lock_timeout, env, "STATE_POSTGRES_LOCK_TIMEOUT", _seconds),
        pgbouncer=_or_env(config.pgbouncer, env, "STATE_POSTGRES_PGBOUNCER", _boolean),
        listen_dsn=listen_dsn,
        listener=_listener(listen_dsn, env),
    )


def _check_password_ended(url: StateURL) -> None:
    """
    Raises:
        InvalidArgumentError: what should be a parameter is the rest of a password, which is not quoted.
    """
    unknown = [f"{name}={value}" for name, value in url.query.items() if name not in _PARAMETERS]
    if any("@" in text for text in unknown):
        raise InvalidArgumentError(
            f"the {url.scheme} URL has an '@' behind the host: write / in a password as %2F, and ? as %3F",
            backend=SCHEME,
        )


def _authority(url: StateURL) -> str:
    return url.netloc.rpartition("@")[2]


def _hosts(authority: str, hosts: str, ports: str) -> Hosts:
    """Hosts with their ports, from `one:5432,two:5433` or from libpq's two lists."""
    if authority and (hosts or ports):
        raise InvalidArgumentError(
            "the URL names its hosts twice: before the path and as a parameter", backend=SCHEME
        )
    if _PORTS.fullmatch(authority):
        return _paired([], authority.replace(":", ""))
    return _paired([unquote(part) for part in _listed(authority)] or _listed(hosts), ports)


def _complete_hosts(said: Hosts, env: Mapping[str, str]) -> Hosts:
    """Where the URL says no host, those of the environment; where it says no port, the ports."""
    names = [name for name, _ in said if name]
    ports = ",".join([str(port) for _, port in said if port])
    if names and ports:
        return said
    found = _paired(names or _listed(env.get("PGHOST", "")), ports or env.get("PGPORT", ""))
    if len(found) > 1 and not found[0][0]:
        raise _mismatched()
    return tuple([(name, port or _PORT) for name, port in found])


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _paired(names: Sequence[str], ports: str) -> Hosts:
    """Each with its own port, or its one of the ports. Ports alone are those of hosts that are not named yet."""
    # One that is left out is the usual one, as libpq has it.
    listed = [port or str(_PORT) for port in ports.split(",")] if ports else []
    names = names or [""] * len(listed)
    if len(listed) not in (0, 1, len(names)):
        raise _mismatched()
    if len(listed) == 1:
        listed *= len(names)
    found = [_host(name) for name in names]
    if listed or any(port for _, port in found):
        listed = listed or [str(_PORT)] * len(names)
        return tuple([(name, own or _port(port)) for (name, own), port in zip(found, listed, strict=True)])
    return tuple(found)


def _mismatched() -> InvalidArgumentError:
    return InvalidArgumentError("give one port for all hosts, or one for each", backend=SCHEME)


def _host(name: str) -> tuple[str, int | None]:
    if not name or (name.count(":") > 1 and "[" not in name and not name.startswith("/")):
        return name, None
    match = _HOST.fullmatch(name)
    if match is None:
        raise _no_host(name, "write name:port, and brackets around an IPv6 address")
    host = match["six"] or match["folder"] or match["name"]
    try:
        (match["name"] or "").encode("idna")  # as the resolver will
    except UnicodeError as error:
        raise _no_host(name, "each part of a name, between dots, has 1 to 63 letters") from error
    return host, _port(match["port"]) if match["port"] else None


def _no_host(name: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name!r} is no host: {why}", backend=SCHEME)


def _shown(host: str) -> str:
    if host.startswith("/"):
        return quote(host, safe="")
    return f"[{host}]" if ":" in host else host


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InvalidArgumentError(f"{text!r} is no port: give a number from 1 to 65535", backend=SCHEME)
    return int(text)


def _tls(name: str, text: str) -> str:
    if name in ("sslmode", "PGSSLMODE") and text not in _SSLMODES:
        raise InvalidArgumentError(f"{name} is {text!r}; it is one of {', '.join(_SSLMODES)}", backend=SCHEME)
    return text


def _together(tls: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """
    Raises:
        InvalidArgumentError: some of them contradict each other.
    """
    mode = tls.get("sslmode", "verify-full")
    if tls.get("sslrootcert") == SYSTEM and mode != "verify-full":
        raise InvalidArgumentError(
            f"sslrootcert=system is for sslmode=verify-full, and not for {mode}: any authority that the system trusts "
            "could vouch for any server; leave sslmode out, or name a file",
            backend=SCHEME,
        )
    return tuple(tls.items())


def _listener(dsn: str | None, env: Mapping[str, str] | None = None) -> PostgresConfig | None:
    if dsn is None:
        return None
    # What is ours in the environment is about the state path.
    known = {name: value for name, value in (env or {}).items() if name.startswith("PG")}
    said = parse(StateURL.parse(dsn))
    if said.hosts:
        known.pop("PGPORT", None)  # that is the pooler's
    return complete(said, known)


def _session(name: str, text: str) -> str:
    if text and text not in _SESSIONS:
        raise InvalidArgumentError(f"{name} is {text!r}; it is one of {', '.join(_SESSIONS)}", backend=SCHEME)
    return text


def _given(query: Mapping[str, str], name: str, read: Callable[[str, str], T]) -> T | None:
    return read(name, query[name]) if name in query else None


def _or_env(said: T | None, env: Mapping[str, str], name: str, read: Callable[[str, str], T]) -> T | None:
    return read(name, env[name]) if said is None and env.get(name) else said


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise InvalidArgumentError(f"{name} is {text!r}; give a number from 1 to 1000", backend=SCHEME)
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise InvalidArgumentError(f"{name} is {text!r}; give seconds, more than 0", backend=SCHEME)
    return seconds


def _limit(name: str, text: str) -> float:
    """Seconds, and 0 for no limit, as libpq has it."""
    return 0.0 if text.strip() == "0" else _seconds(name, text)


def _boolean(name: str, text: str) -> bool:
    answers = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False}
    answers |= {"no": False, "off": False}
    if text.lower() not in answers:
        raise InvalidArgumentError(f"{name} is {text!r}; write true or false", backend=SCHEME)
    return answers[text.lower()]


def _dsn(name: str, text: str) -> str:
    # Never quoted: it may have a password.
    if not text.startswith(("postgresql://", "postgres://")):
        raise InvalidArgumentError(f"{name} is no URL such as {SCHEME}://host/database", backend=SCHEME)
    parse(StateURL.parse(text))
    return text
