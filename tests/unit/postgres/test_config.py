"""From a state path to a configuration."""

from urllib.parse import quote

import pytest
from statepath.backend import StateURL
from statepath.discovery import connect
from statepath.errors import InvalidArgumentError
from statepath_postgres import PostgresConfig, factory
from statepath_postgres.connections import CONNECT_TIMEOUT, Connections


def parse(text: str) -> PostgresConfig:
    return factory.parse(StateURL.parse(text))


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("postgresql://localhost/my%40db", PostgresConfig((("localhost", None),), "my@db")),
        ("postgresql:///my%40db?host=/run", PostgresConfig((("/run", None),), "my@db")),
        ("postgresql://db/agents", PostgresConfig((("db", None),), "agents")),
        ("postgres://db:6543/agents?store=a", PostgresConfig((("db", 6543),), "agents", store="a")),
        ("postgresql://", PostgresConfig()),
        ("postgresql:///agents", PostgresConfig((), "agents")),
        ("postgresql://me:p%2Fw@db/a%20b", PostgresConfig((("db", None),), "a b", "me", "p/w")),
        ("postgresql://[::1]:6543/a", PostgresConfig((("::1", 6543),), "a")),
        ("postgresql://one,two:6543/a", PostgresConfig((("one", 5432), ("two", 6543)), "a")),
        ("postgresql://%2Frun%2Fpg/a", PostgresConfig((("/run/pg", None),), "a")),
        ("postgresql://%2Frun%2Fpg:6543,two:1/a", PostgresConfig((("/run/pg", 6543), ("two", 1)), "a")),
        ("postgresql:///a?host=/run/50%2541", PostgresConfig((("/run/50%41", None),), "a")),
        ("postgresql:///a?host=/run/pg&port=6543", PostgresConfig((("/run/pg", 6543),), "a")),
        ("postgresql:///a?host=one,::1&port=1,2", PostgresConfig((("one", 1), ("::1", 2)), "a")),
        ("postgresql:///a?host=one,two", PostgresConfig((("one", None), ("two", None)), "a")),
        ("postgresql:///a?port=6543", PostgresConfig((("", 6543),), "a")),
        ("postgresql:///a?connect_timeout=0", PostgresConfig((), "a", connect_timeout=0)),
        ("postgresql:///a?host=one,two&port=6543", PostgresConfig((("one", 6543), ("two", 6543)), "a")),
        ("postgresql:///a?pgbouncer=yes&pool=3", PostgresConfig((), "a", pgbouncer=True, pool=3)),
        ("postgresql:///a?sslmode=require", PostgresConfig((), "a", tls=(("sslmode", "require"),))),
        ("postgresql:///a?target_session_attrs=any", PostgresConfig((), "a", session="any")),
        ("postgresql:///a?timeout=2.5&lock_timeout=1", PostgresConfig((), "a", timeout=2.5, lock_timeout=1)),
    ],
)
def test_a_url_names_a_store_of_a_database(url: str, config: PostgresConfig) -> None:
    assert parse(url) == config


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://db/a/b", "one database"),
        ("postgresql://db/a?store=", "store is a name"),
        ("postgresql://db/a?store=" + "x" * 201, "store is a name"),
        ("postgresql://one:x,two/a", "is no host"),
        ("postgresql://one,two:99999/a", "is no port"),
        ("postgresql://a..b/a", "is no host"),
        (f"postgresql://{'x' * 64}.example.org/a", "is no host"),
        ("postgresql:///a?host=one,two&port=1,2,3", "one port for all hosts"),
        ("postgresql://db/a?host=other", "names its hosts twice"),
        ("postgresql://db/a?pool=0", "pool is '0'"),
        ("postgresql://db/a?timeout=-1", "give seconds"),
        ("postgresql://db/a?timeout=nan", "give seconds"),
        ("postgresql://db/a?timeout=0", "give seconds"),
        ("postgresql://db/a?connect_timeout=-1", "give seconds"),
        ("postgresql://db/a?pgbouncer=perhaps", "write true or false"),
        ("postgresql://db/a?sslmode=perhaps", "one of disable, allow"),
        ("postgresql://db/a?target_session_attrs=best", "one of any, primary"),
        ("postgresql://db/a?listen_dsn=db", "listen_dsn is no URL"),
        ("postgresql://db/a?storre=a", "no parameter 'storre'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_cause(url: str, cause: str) -> None:
    with pytest.raises(InvalidArgumentError, match=cause):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://agent:2024/secret@db",
        "postgresql://agent:2024/secret@db/a",
        "postgresql://agent:2024,7/secret@db/a",
        "postgresql://agent:2024?secret@db/a",
        "postgresql://agent:2024?secret=1@db/a",
        "postgresql://agent:2024?secret&more@db/a",
        "postgresql://agent:at@2024?secret@db/a",
        "postgresql://db/a?listen_dsn=postgresql%3A%2F%2Fagent%3A2024%2Fsecret%40db",
    ],
)
def test_the_rest_of_a_password_is_not_taken_for_something_that_may_be_shown(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="/ in a password as %2F") as caught:
        parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://me@db/a@b", "postgresql://me@db:5432/a%40b", "postgresql://db:5432/a%40b"]
)
def test_a_database_may_have_an_at_sign(url: str) -> None:
    assert parse(url).database == "a@b"


@pytest.mark.parametrize("database", ["a@b", "a#b", "a?b", "50%"])
def test_what_is_shown_names_the_same_database(database: str) -> None:
    shown = parse(f"postgresql://db/{quote(database)}?store=agents").url
    assert parse(shown).database == database


@pytest.mark.parametrize("hosts", ["%2Frun%2Fpg:6543", "[::1]:6543", "db:5432,%2Frun%2F%2B%25:6543"])
def test_what_is_shown_names_the_same_hosts(hosts: str) -> None:
    config = parse(f"postgresql://{hosts}/a")
    assert parse(config.url).hosts == config.hosts


def test_what_the_url_says_wins_over_the_environment() -> None:
    env = {
        "PGHOST": "other",
        "PGPORT": "1",
        "PGUSER": "them",
        "PGPASSWORD": "theirs",
        "PGDATABASE": "theirs",
        "PGSSLMODE": "disable",
        "PGSSLROOTCERT": "/root.crt",
        "PGTARGETSESSIONATTRS": "any",
        "STATE_POSTGRES_POOL": "7",
        "STATE_POSTGRES_TIMEOUT": "8",
    }
    said = parse(
        "postgresql://me:mine@db:5432/a?sslmode=require&target_session_attrs=primary&pool=2&timeout=3"
    )
    completed = factory.with_env(said, env)
    assert completed.hosts == (("db", 5432),)
    assert (completed.user, completed.password, completed.database) == ("me", "mine", "a")
    assert dict(completed.tls) == {"sslmode": "require", "sslrootcert": "/root.crt"}
    assert (completed.session, completed.pool, completed.timeout) == ("primary", 2, 3)


def test_the_environment_says_what_the_url_leaves_open() -> None:
    env = {
        "PGHOST": "one,two",
        "PGPORT": "1,2",
        "PGUSER": "me",
        "PGPASSWORD": "mine",
        "PGCONNECT_TIMEOUT": "4",
        "STATE_POSTGRES_PGBOUNCER": "true",
        "STATE_POSTGRES_LISTEN_DSN": "postgresql://me:mine@direct/a",
    }
    completed = factory.with_env(parse("postgresql://"), env)
    assert completed.hosts == (("one", 1), ("two", 2))
    assert (completed.user, completed.password, completed.database) == ("me", "mine", "me")
    assert (completed.connect_timeout, completed.pgbouncer) == (4, True)
    assert completed.listen_dsn == env["STATE_POSTGRES_LISTEN_DSN"]
    assert completed.listener is not None
    assert completed.listener.hosts == (("direct", 5432),), "the ports are those of the pooler"


@pytest.mark.parametrize(
    ("url", "env", "hosts"),
    [
        ("postgresql://db/a", {}, (("db", 5432),)),
        ("postgresql://db/a", {"PGPORT": "5433"}, (("db", 5433),)),
        ("postgresql://db:1/a", {"PGPORT": "5433"}, (("db", 1),)),
        ("postgresql://one,two/a", {"PGPORT": "1,2"}, (("one", 1), ("two", 2))),
        ("postgresql://one,two:7/a", {"PGPORT": "1,2"}, (("one", 5432), ("two", 7))),
        ("postgresql://one,two/a", {"PGPORT": ",5433"}, (("one", 5432), ("two", 5433))),
        ("postgresql:///a?host=one,two&port=,5433", {}, (("one", 5432), ("two", 5433))),
        ("postgresql:///a?port=5433", {}, (("", 5433),)),
        ("postgresql://:5433/a", {}, (("", 5433),)),
        ("postgresql://me@:5433/a", {"PGHOST": "db"}, (("db", 5433),)),
        ("postgresql://:1,:2/a", {"PGHOST": "one,two"}, (("one", 1), ("two", 2))),
        ("postgresql:///a?port=5433", {"PGHOST": "db", "PGPORT": "1"}, (("db", 5433),)),
        ("postgresql:///a?port=1,2", {"PGHOST": "one,two"}, (("one", 1), ("two", 2))),
        ("postgresql:///a", {"PGPORT": "5433"}, (("", 5433),)),
        ("postgresql:///a", {"PGHOST": "db"}, (("db", 5432),)),
        ("postgresql:///a", {}, ()),
    ],
)
def test_hosts_and_ports_complete_each_other_as_libpq_has_it(
    url: str, env: dict[str, str], hosts: tuple[tuple[str, int], ...]
) -> None:
    completed = factory.with_env(parse(url), env)
    assert completed.hosts == hosts
    assert factory.with_env(completed, {}).hosts == hosts


@pytest.mark.parametrize(
    ("url", "env"),
    [
        ("postgresql://db/a", {"PGPORT": "1,2"}),
        ("postgresql:///a?port=1,2", {}),
        ("postgresql:///a?port=1,2", {"PGHOST": "db"}),
    ],
)
def test_ports_of_other_hosts_than_there_are_are_refused(url: str, env: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="one port for all hosts"):
        factory.with_env(parse(url), env)


def test_a_time_to_connect_of_zero_has_no_end() -> None:
    def limit(url: str, **env: str) -> object:
        config = factory.with_env(parse(url), env)
        return Connections(config, readonly=False)._arguments(config)["timeout"]

    assert limit("postgresql://db/a", PGCONNECT_TIMEOUT="0") is None
    assert limit("postgresql://db/a?connect_timeout=0", PGCONNECT_TIMEOUT="4") is None
    assert limit("postgresql://db/a", PGCONNECT_TIMEOUT="4") == 4
    assert limit("postgresql://db/a") == CONNECT_TIMEOUT


@pytest.mark.parametrize(
    "variable",
    [
        "PGCONNECT_TIMEOUT",
        "PGPASSFILE",
        "PGPASSWORD",
        "PGSSLMODE",
        "STATE_POSTGRES_POOL",
        "STATE_POSTGRES_TIMEOUT",
        "STATE_POSTGRES_PGBOUNCER",
        "STATE_POSTGRES_LISTEN_DSN",
    ],
)
def test_an_empty_variable_says_nothing(variable: str) -> None:
    said = parse("postgresql://db/a")
    assert factory.with_env(said, {variable: ""}) == factory.with_env(said, {})


def test_trusting_whom_the_system_trusts_takes_the_strictest_check() -> None:
    assert dict(parse("postgresql://db/a?sslrootcert=system").tls) == {"sslrootcert": "system"}
    with pytest.raises(InvalidArgumentError, match="leave sslmode out"):
        parse("postgresql://db/a?sslrootcert=system&sslmode=require")
    with pytest.raises(InvalidArgumentError, match="leave sslmode out"):
        factory.with_env(parse("postgresql://db/a?sslrootcert=system"), {"PGSSLMODE": "prefer"})


def test_the_database_past_the_pooler_is_completed_by_the_environment_alone() -> None:
    said = parse("postgresql://me:mine@pooler/a?sslmode=require&listen_dsn=postgresql://direct/b")
    listener = factory.with_env(said, {"PGUSER": "them", "PGSSLROOTCERT": "/root.crt"}).listener
    assert listener is not None
    assert (listener.hosts, listener.database, listener.user) == ((("direct", 5432),), "b", "them")
    assert listener.password is None
    assert dict(listener.tls) == {"sslrootcert": "/root.crt"}


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="STATE_POSTGRES_POOL"):
        factory.with_env(parse("postgresql://"), {"STATE_POSTGRES_POOL": "many"})


def test_no_password_is_shown() -> None:
    config = parse("postgresql://me:hunter2@one:1,[::1]:2/a?store=b&listen_dsn=postgresql://me:hunter3@db/a")
    assert "hunter" not in repr(config) + config.url
    assert config.url == "postgresql://one:1,[::1]:2/a?store=b"


def test_the_url_of_several_hosts_is_shown_without_the_password() -> None:
    url = StateURL.parse("postgresql://me:hunter2@One:1,two/a?store=b")
    assert (url.host, url.port) == ("one:1,two", None)
    assert url.redacted() == "postgresql://…@one:1,two/a?store=…"


@pytest.mark.parametrize(
    ("name", "file"), [("sslcert", "the file /nowhere, which"), ("sslkey", "a file that")]
)
async def test_a_file_that_is_missing_is_told(name: str, file: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name} names {file} does not exist"):
        await connect(f"postgresql://db/agents?{name}=/nowhere", env={})
