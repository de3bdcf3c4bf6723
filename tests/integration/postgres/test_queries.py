"""Queries that the database answers: the same documents as in memory, whatever the filter."""

import json
import random
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
import statepath
from msgspec import Raw
from statepath import F
from statepath.commit import Commit, Put
from statepath.engine.documents import decode
from statepath.errors import CorruptionError, InvalidArgumentError
from statepath.filters import Or
from statepath_postgres import documents as found_by_id
from statepath_postgres import reading
from statepath_postgres.conditions import condition

FILL = """
INSERT INTO statepath.documents (store, collection, id, version, modified, data)
SELECT -1, 'tasks', n::text, n, now(), format('{"status": "%s", "n": %s}', n, n)::jsonb FROM generate_series(1, 5000) n;
SELECT gin_clean_pending_list('statepath.documents_data');
ANALYZE statepath.documents;
SET LOCAL enable_seqscan = off;
"""

VALUES = (
    None, True, False, 0, 1, -1, 2, 1.0, 1.5, 0.1, 1e22, 2**53, 2**53 + 1, 2**70, 10**308,
    "", "a", "b", "ab", "B", "ä", "Ä", "\U0001f600", "\uffff", "1", "true", "null", "%", "_", "\\", '"', "a\nb",
    "2024-01-01", "2024-01-01T10:00:00Z", "2024-01-01T12:00:00+02:00", "a\0b", "\0", "\ud800",
    [], ["a"], ["b", "a"], [1], [True], [None], [["a"]], {}, {"a": 1}, {"b": "a"}, {"b": {"c": "x"}}, {"0": "a"},
    {"b": ["a", "b"]}, [{"b": "a"}], {"b.c": "x"}, {" 0": "a"}, {"+1": "a"}, {"": "a"}, {"b": None},
)  # fmt: skip
PATHS = (
    "a",
    "a.b",
    "a.b.c",
    "a.0",
    "a.-1",
    "a.1",
    "b",
    ("a", "b.c"),
    ("a", " 0"),
    ("a", "+1"),
    "a.0.b",
    "a.b.0",
)
OPERANDS = (
    None, True, False, 0, 1, 1.0, 1.5, 0.1, 1e22, 2**53, 2**53 + 1, 2**70, 10**308, 10**400, "", "a", "ab", "b", "ä",
    "1", "%", "\\", '"', "\0", "a\0b", "\ud800", "\U0001f600", "2024-01-01T10:00:00Z", "2024-01-01",
    datetime(2024, 1, 1, 10, tzinfo=UTC), date(2024, 1, 1), [], ["a"], {"a": 1}, {"b": "a"},
)  # fmt: skip


def written(value):
    """As our own encoder writes it; half of a character cannot be but escaped."""
    return json.dumps(value, ensure_ascii=r"\ud800" in json.dumps(value))


def documents():
    """The documents, by id; some of them as text that no encoder of ours would write."""
    found = {f"v{n}": written({"id": f"v{n}", "a": value}) for n, value in enumerate(VALUES)}
    found["none"] = '{"id":"none"}'
    raw = (
        "1.00000000000000000001",
        "0.1000000000000000055511",
        "1e400",
        "1E-400",
        "100000000000000000000000",
        "-0.0",
    )
    found |= {f"r{n}": f'{{"id":"r{n}","a":{number}}}' for n, number in enumerate(raw)}
    found["twice"] = '{"id":"twice","a":"b","a":"a"}'
    return found


def leaf(chance):
    field = F(chance.choice(PATHS))
    value = chance.choice(OPERANDS)
    kind = chance.randrange(7)
    if kind == 0:
        return field == value
    if kind == 1:
        return field != value
    if kind == 2:
        return field.in_(chance.sample(OPERANDS, chance.randrange(4)))
    if kind == 3:
        return field.contains(value)
    if kind == 4:
        return field.exists()
    if kind == 5:
        return field.startswith(chance.choice([value for value in OPERANDS if isinstance(value, str)]))
    ordered = [v for v in OPERANDS if isinstance(v, int | float | str | date) and not isinstance(v, bool)]
    value = chance.choice(ordered)
    return chance.choice([field < value, field <= value, field > value, field >= value])


def tree(chance, depth=0):
    kind = chance.randrange(6 if depth < 3 else 1)
    if kind < 3:
        return leaf(chance)
    if kind == 3:
        return tree(chance, depth + 1) & tree(chance, depth + 1)
    if kind == 4:
        return tree(chance, depth + 1) | tree(chance, depth + 1)
    return ~tree(chance, depth + 1)


@pytest.fixture
async def asked(path, connect, around):
    """The database's answer to a filter: the ids, and those that it could not look into."""
    backend = await connect(path)
    changes = tuple(Put("raw", id, Raw(text.encode())) for id, text in documents().items())
    moment = datetime.now(UTC)
    commit = Commit(first=1, last=1, id=uuid4().hex, prev="", writer="w", store="s", incarnation="i", time=moment,
                    durable=0, transactions=(changes,))  # fmt: skip
    await backend.show(0, ())
    await backend.commit_log().append(0, commit)
    assert await backend.find("raw", F("a") == "a", 1) is not None
    store = await around.fetchval(
        "SELECT id FROM statepath.stores WHERE name = $1", path.partition("store=")[2]
    )
    blind = await around.fetch("SELECT id FROM statepath.documents WHERE store = $1 AND data IS NULL", store)

    async def ask(said):
        statement = f"SELECT id FROM statepath.documents WHERE store = $1 AND {said.sql}"  # noqa: S608 - ours
        return {row["id"] for row in await around.fetch(statement, store, *said.arguments)}

    return ask, {row["id"] for row in blind}


async def test_sql_lets_through_at_least_what_the_filter_does(asked):
    ask, blind = asked
    parsed = {}
    for id, text in documents().items():
        try:
            parsed[id] = decode(text.encode())
        except CorruptionError:
            assert id in blind | {"r2"}, "nothing else is JSON that Python does not take"
    chance = random.Random(1)
    said_in_sql = 0
    for _ in range(1500):
        where = tree(chance)
        said = condition(where, first=2)
        if said is None:
            continue
        said_in_sql += 1
        found = await ask(said)
        wanted = {id for id, document in parsed.items() if where.matches(document)}
        assert wanted - blind <= found, where
        opposite = condition(~where, first=2)
        if opposite is not None:
            assert await ask(opposite) - blind == set(documents()) - blind - found, where
    assert said_in_sql > 700


async def test_few_documents_cannot_be_looked_into(asked):
    _, blind = asked
    refused = {json.dumps(value) for value in ("a\0b", "\0", "\ud800")}
    assert blind == {f"v{n}" for n, value in enumerate(VALUES) if json.dumps(value) in refused}


async def fill(store):
    raw = store.collection("raw")
    for text in documents().values():
        try:
            await raw.put(decode(text.encode()))
        except (CorruptionError, InvalidArgumentError):
            continue
    await raw.append("none", "list", "x")
    await raw.append("none", "list", "a")
    await raw.append("none", "other", {"b": 1})
    await raw.delete("v15")
    async with store.transaction() as tx:
        tx.put(raw, {"id": "both", "a": "a", "list": []})
        tx.append(raw, "both", "list", "a")
        tx.put(store.collection("other"), {"id": "v0", "a": "a"})


CASES = [
    (F("a") == "a", None),
    (F("a") != "a", "a"),
    (F("a").in_(["a", "b", None]), "-a"),
    (F("a.b") == "a", None),
    ((F("a") == "b") | (F("a.b") == "a"), None),
    ((F("a") == "a") & ~F("list").exists(), None),
    ((F("a") == True) | (F("a") == False), None),  # noqa: E712 - builds a filter
    (F("list").contains("a"), None),
    (F("a") == "\0", None),
    (F("a").startswith("a"), "-id"),
    (F("a") == "nowhere", None),
]


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "file", "postgresql", "unloaded"])
async def test_each_backend_gives_the_same_documents(scheme, path, tmp_path, monkeypatch):
    monkeypatch.setattr("statepath.query.MANY", 0)
    places = {
        "memory": f"memory://{uuid4().hex}",
        "sqlite": f"sqlite://{tmp_path}/state.db",
        "file": str(tmp_path / "state"),
        "postgresql": path,
        "unloaded": path,
    }
    load = scheme != "unloaded"
    async with (
        statepath.open(f"memory://{uuid4().hex}") as model,
        statepath.open(places[scheme], load=load) as store,
    ):
        await fill(model)
        await fill(store)
        everything = await model.collection("raw").find().all()
        assert await store.collection("raw").find().all() == everything
        assert [await store.collection("raw").get(document["id"]) for document in everything] == everything
        for where, order in CASES:
            found = [document async for document in store.collection("raw").find(where, order_by=order)]
            wanted = [document async for document in model.collection("raw").find(where, order_by=order)]
            assert found == wanted, where
            assert await store.collection("raw").find(where).count() == len(wanted)
            assert await store.collection("raw").find(where, order_by=order).first() == next(
                iter(wanted), None
            )
            assert await pages(store, where, order) == wanted


LONG_LISTS = {
    "texts": [*(f"t{n}" for n in range(40_000)), "a", "b", "a\0b", "\0", "\ud800"],
    "numbers": [*range(10, 40_000), 1.5],
    "both": [*(f"t{n}" for n in range(100)), "a", 1, None, True],
    "what jsonb cannot hold": [f"{n}\0" for n in range(40)],
}


@pytest.mark.parametrize("load", [True, False], ids=["loaded", "unloaded"])
@pytest.mark.parametrize("values", LONG_LISTS.values(), ids=LONG_LISTS)
async def test_a_list_may_be_long(path, load, values, monkeypatch):
    monkeypatch.setattr("statepath.query.MANY", 0)
    async with (
        statepath.open(f"memory://{uuid4().hex}") as model,
        statepath.open(path, load=load) as store,
    ):
        await fill(model)
        await fill(store)
        for where in (F("a").in_(values), ~F("a").in_(values), F("a").in_(values) & (F("id") == "both")):
            wanted = await model.collection("raw").find(where).all()
            assert await store.collection("raw").find(where).all() == wanted


async def test_a_long_list_of_texts_is_one_argument():
    few = condition(F("a").in_([f"t{n}" for n in range(17)]), first=1)
    many = condition(F("a").in_([f"t{n}" for n in range(40_000)]), first=1)
    assert few is not None
    assert many is not None
    assert many.sql == few.sql


@pytest.mark.slow
async def test_what_would_have_more_arguments_than_can_be_sent_is_left_to_the_core():
    part = F("a").in_(range(100))
    assert condition(Or((part,) * 10), first=1) is not None
    assert condition(Or((part,) * 1000), first=1) is None


async def test_a_path_that_is_longer_than_any_document_is_deep_is_left_to_the_core(path):
    where = F(["a"] * 3000) == "x"
    assert condition(where, first=1) is None
    async with statepath.open(path, load=False) as store:
        raw = store.collection("raw")
        await raw.put({"id": "b", "a": {"a": "x"}})
        assert await raw.find(where).all() == []
        assert await raw.find(~where).count() == 1


@pytest.mark.parametrize("name", ["0000000001", "-0000000001"])
async def test_a_name_of_too_many_digits_is_no_index(path, name):
    async with statepath.open(path, load=False) as store:
        raw = store.collection("raw")
        await raw.put({"id": "list", "a": ["b", "a"]})
        await raw.put({"id": "object", "a": {name: "a"}})
        for where, found in ((F(("a", name)) == "a", "object"), (F(("a", name)) != "a", "list")):
            assert [document["id"] async for document in raw.find(where)] == [found]


async def pages(store, where, order):
    """The documents, a few at a time."""
    found, after = [], None
    while True:
        page = await store.collection("raw").find(where, order_by=order, limit=3, after=after).page()
        found += page.items
        after = page.next
        if after is None:
            return found


class Asked:
    """Counts what the database answers."""

    def __init__(self, store, monkeypatch):
        self.answers = []
        backend = store._engine.backend
        find = backend.find

        async def found(*arguments):
            self.answers.append(await find(*arguments))
            return self.answers[-1]

        monkeypatch.setattr(backend, "find", found)
        monkeypatch.setattr("statepath.query.MANY", 0)


async def test_a_query_is_never_older_than_the_handle_s_own_commits(path, monkeypatch):
    async with statepath.open(path) as store:
        asked = Asked(store, monkeypatch)
        raw = store.collection("raw")
        for n in range(30):
            await raw.put({"id": str(n % 7), "n": f"n{n}"})
            assert [document["id"] async for document in raw.find(n=f"n{n}")] == [str(n % 7)]
            assert not await raw.find(n=f"n{n - 7}").all()
        assert asked.answers == [
            answer for n in range(30) for answer in (frozenset({str(n % 7)}), frozenset())
        ]


async def test_what_another_writer_committed_is_not_mixed_in(path, monkeypatch):
    async with statepath.open(path) as store, statepath.open(path) as other:
        asked = Asked(store, monkeypatch)
        await store.collection("raw").put({"id": "a", "n": "one"})
        await other.collection("raw").put({"id": "a", "n": "two"})
        assert await other.collection("raw").find(n="two").count() == 1
        assert await store.collection("raw").find(n="one").count() == 1
        assert asked.answers == [None]
        await store.collection("raw").put({"id": "b", "n": "two"})
        assert await store.collection("raw").find(n="two").count() == 2
        assert asked.answers[1:] == [frozenset({"a", "b"})]


async def test_a_reader_asks_the_database_too_when_the_view_shows_what_it_sees(path, monkeypatch):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a", "n": "one"})
        assert await store._engine.backend.find("raw", F("n") == "one", 1) == {"a"}
        async with statepath.open(path, readonly=True) as reader:
            asked = Asked(reader, monkeypatch)
            assert await reader.collection("raw").find(n="one").count() == 1
            assert asked.answers == [frozenset({"a"})]


async def test_what_a_crash_left_behind_is_caught_up_at_open(path, around, monkeypatch):
    name = path.partition("store=")[2]
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a", "n": "one"})
        await store._engine.backend._documents.close()  # nothing shows what comes now
        await store.collection("raw").put({"id": "a", "n": "two"})
        await store.collection("raw").put({"id": "b", "n": "two"})
    async with statepath.open(path) as store:
        asked = Asked(store, monkeypatch)
        assert await store.collection("raw").find(n="two").count() == 2
        assert asked.answers == [frozenset({"a", "b"})]
    shown = "SELECT shown FROM statepath.views v JOIN statepath.stores s ON s.id = v.store WHERE s.name = $1"
    assert await around.fetchval(shown, name) == 3


async def test_what_a_crash_of_the_server_took_back_is_shown_again_from_the_next_query_on(
    path, around, monkeypatch
):
    name = path.partition("store=")[2]
    async with statepath.open(path) as store:
        asked = Asked(store, monkeypatch)
        await store.collection("raw").put({"id": "a", "n": "one"})
        await store.flush()
        await around.execute(
            "UPDATE statepath.views SET shown = shown - 1 "
            "WHERE store = (SELECT id FROM statepath.stores WHERE name = $1)",
            name,
        )
        for _ in range(2):
            assert await store.collection("raw").find(n="one").count() == 1
        assert asked.answers == [None, frozenset({"a"})]


async def test_a_view_that_the_log_cannot_bring_up_to_date_is_made_anew(path, around, monkeypatch):
    name = path.partition("store=")[2]
    async with statepath.open(path) as store:
        for n in range(5):
            await store.collection("raw").put({"id": str(n), "n": "one"})
        await store.snapshot()
    await around.execute(
        "UPDATE statepath.views SET shown = -1 WHERE store = (SELECT id FROM statepath.stores WHERE name = $1)",
        name,
    )
    await around.execute(
        "DELETE FROM statepath.documents WHERE store = (SELECT id FROM statepath.stores WHERE name = $1)",
        name,
    )
    async with statepath.open(path) as store:
        asked = Asked(store, monkeypatch)
        assert await store.collection("raw").find(n="one").count() == 5
        assert asked.answers == [frozenset("01234")]


async def test_a_document_that_jsonb_cannot_hold_is_found_and_comes_back_byte_for_byte(path, monkeypatch):
    async with statepath.open(path) as store:
        asked = Asked(store, monkeypatch)
        raw = store.collection("raw")
        await raw.put({"id": "nul", "text": "a\0b", "n": "one"})
        await raw.append("nul", "list", "\0")
        await raw.put({"id": "plain", "n": "one", "list": []})
        await raw.append("plain", "list", "\0")
        assert [document["id"] async for document in raw.find(n="one")] == ["nul", "plain"]
        assert [
            document["id"] async for document in raw.find(F("text").contains("\0") & (F("n") == "one"))
        ] == ["nul"]
        assert None not in asked.answers
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("raw").get("nul") == {
            "id": "nul",
            "text": "a\0b",
            "n": "one",
            "list": ["\0"],
        }


@pytest.mark.parametrize(
    "where",
    [
        F("status") == "failed",
        F("result.passed") == False,  # noqa: E712
        F("status").in_(["failed", "lost"]),
        (F("status") == "failed") & (F("n") > 3),
        (F("status") == "failed") & ~(F("tool") == "x"),
    ],
    ids=str,
)
async def test_a_filter_that_the_index_knows_is_looked_up_in_it(path, around, where):
    async with statepath.open(path):
        pass
    scan = reading._SCAN[reading._SCAN.index("SELECT") :]
    for statement, first in ((found_by_id._FIND, 3), (scan, 4)):
        said = condition(where, first=first)
        assert said.indexed
        asked = statement.replace("{condition}", said.sql)
        arguments = (-1, "tasks", "")[: first - 1]
        trial = around.transaction()
        await trial.start()
        try:
            await around.execute(FILL)
            plan = await around.fetch(f"EXPLAIN {asked}", *arguments, *said.arguments)
        finally:
            await trial.rollback()
        assert "Bitmap Index Scan on documents_data " in "\n".join(row[0] for row in plan)
