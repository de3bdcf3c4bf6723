from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, computed_field
from statepath.errors import CorruptionError, InvalidArgumentError
from statepath.filters import F, Filter
from statepath.query import DEFAULT_PAGE, Page, Query, _Reversed

Json = dict[str, Any]


@dataclass
class StoredRow:
    data: bytes

    def json(self) -> bytes:
        return self.data


class Documents:
    """A collection that counts what is asked of it."""

    def __init__(self, documents: Mapping[str, Json]) -> None:
        self.seq = 7
        self.stored = {id: StoredRow(msgspec.json.encode(document)) for id, document in documents.items()}
        self.decoded: list[str] = []

    def rows(self) -> tuple[int, list[tuple[str, StoredRow]]]:
        return self.seq, list(self.stored.items())

    def decode(self, id: str, row: StoredRow) -> Json:
        self.decoded.append(id)
        document: Json = msgspec.json.decode(row.data)
        return {"_id": id, **document}

    def find(self, where: Filter | None = None, /, **options: Any) -> Query[Json]:
        known = ("order_by", "limit", "after", "model")
        equals = {name: value for name, value in options.items() if name not in known}
        given = {name: value for name, value in options.items() if name in known}
        return Query(self, self.decode, collection="tasks", where=where, equals=equals, **given)


def ids(found: list[Json]) -> list[str]:
    return [document["_id"] for document in found]


TASKS = Documents(
    {
        "c": {"status": "failed", "n": 3, "at": "2024-01-01T10:00:00Z"},
        "a": {"status": "done", "n": 1, "at": "2024-01-01T10:00:00.500Z", "result": {"ok": True}},
        "d": {"status": "failed", "n": None, "at": "2024-01-01T13:00:00+04:00"},
        "b": {"status": "failed", "n": 2},
    }
)


async def test_one_that_cannot_be_read_is_named() -> None:
    documents = Documents({"a": {}})
    documents.stored["a"] = StoredRow(b'{"n":"\xff"}')
    with pytest.raises(CorruptionError, match="tasks/a cannot be read") as caught:
        await documents.find(n=1).all()
    assert caught.value.key == "tasks/a"


async def test_without_arguments_all_documents_come_in_the_order_of_their_ids() -> None:
    assert ids(await TASKS.find().all()) == ["a", "b", "c", "d"]


async def test_a_query_can_be_iterated() -> None:
    assert [document["_id"] async for document in TASKS.find()] == ["a", "b", "c", "d"]


async def test_equals_and_a_filter_must_both_hold() -> None:
    assert ids(await TASKS.find(status="failed").all()) == ["b", "c", "d"]
    assert ids(await TASKS.find(F("n") > 2, status="failed").all()) == ["c"]
    assert ids(await TASKS.find(status="failed", n=None).all()) == ["d"]
    assert ids(await TASKS.find(F("result.ok") == True).all()) == ["a"]  # noqa: E712 - builds a filter


async def test_first_is_the_first_of_all_or_none() -> None:
    first = await TASKS.find(status="failed").first()
    assert first is not None
    assert first["_id"] == "b"
    assert await TASKS.find(status="lost").first() is None


async def test_count_is_how_many_all_would_give() -> None:
    assert await TASKS.find().count() == 4
    assert await TASKS.find(status="failed").count() == 3
    assert await TASKS.find(status="failed", limit=2).count() == 2
    assert await TASKS.find(status="failed", limit=9).count() == 3
    assert await TASKS.find(status="lost").count() == 0


async def test_limit_takes_the_first_in_order() -> None:
    assert ids(await TASKS.find(limit=2).all()) == ["a", "b"]
    assert ids(await TASKS.find(order_by="-n", limit=2).all()) == ["c", "b"]


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("n", ["a", "b", "c", "d"]),
        ("-n", ["c", "b", "a", "d"]),
        ("status", ["a", "b", "c", "d"]),
        ("-status", ["b", "c", "d", "a"]),
        ("status,-n", ["a", "c", "b", "d"]),
        (" -status , n ", ["b", "c", "d", "a"]),
        ("- n", ["c", "b", "a", "d"]),
        ("result.ok", ["a", "b", "c", "d"]),
        ("no.such.field", ["a", "b", "c", "d"]),
    ],
)
async def test_documents_are_ordered_by_fields_with_ties_by_id_and_missing_last(
    order_by: str, expected: list[str]
) -> None:
    assert ids(await TASKS.find(order_by=order_by).all()) == expected


async def test_dates_are_ordered_as_instants() -> None:
    assert ids(await TASKS.find(order_by="at").all()) == ["d", "c", "a", "b"]
    assert ids(await TASKS.find(order_by="-at").all()) == ["a", "c", "d", "b"]


async def test_kinds_are_kept_together() -> None:
    values: list[Any] = ["b", 2, True, [1], None, "a", 1.5, False, {}]
    mixed = Documents({str(n): {"v": value} for n, value in enumerate(values)})
    assert ids(await mixed.find(order_by="v").all()) == ["7", "2", "6", "1", "5", "0", "3", "8", "4"]
    assert ids(await mixed.find(order_by="-v").all()) == ["3", "8", "0", "5", "1", "6", "2", "7", "4"]


# Pages


async def test_a_page_says_where_the_next_one_begins() -> None:
    page = await TASKS.find(order_by="-n", limit=3).page()
    assert ids(page.items) == ["c", "b", "a"]
    assert page.seq == 7
    last = await TASKS.find(order_by="-n", limit=3, after=page.next).page()
    assert ids(last.items) == ["d"]
    assert last.next is None


async def test_the_last_page_may_be_full() -> None:
    assert (await TASKS.find(limit=4).page()).next is None
    assert await Documents({}).find().page() == Page([], None, 7)


async def test_a_page_without_a_limit_has_a_hundred_documents() -> None:
    many = Documents({f"{n:03}": {} for n in range(DEFAULT_PAGE + 1)})
    page = await many.find().page()
    assert len(page.items) == DEFAULT_PAGE == 100
    assert ids(await many.find(after=page.next).all()) == ["100"]


async def test_pages_go_on_behind_a_document_that_is_gone() -> None:
    tasks = Documents({id: {"n": n} for n, id in enumerate("abcd")})
    page = await tasks.find(order_by="n", limit=2).page()
    del tasks.stored["b"]
    tasks.stored["aa"] = StoredRow(b'{"n": 0.5}')
    assert ids(await tasks.find(order_by="n", after=page.next).all()) == ["c", "d"]


async def test_a_cursor_is_for_its_own_order() -> None:
    page = await TASKS.find(order_by="-n", limit=1).page()
    with pytest.raises(InvalidArgumentError, match="order_by='-n'"):
        TASKS.find(order_by="n", after=page.next)


@pytest.mark.parametrize(
    "kind", [[3, 5], [1, "text"], [2, "text"], [0, "text"], [5, "text"], [6, 0], [-1, 0]]
)
async def test_a_cursor_to_a_value_that_is_not_of_its_kind_is_refused(kind: list[Any]) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(["n", [kind], "x"]).encode()).decode()
    with pytest.raises(InvalidArgumentError, match="after is not a cursor"):
        TASKS.find(order_by="n", after=cursor)


@pytest.mark.parametrize("cursor", ["", "x", "e30", "ä", "W10", "WyIiLFtbMV1dLCJhIl0", 7])
def test_what_is_no_cursor_is_refused(cursor: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="after is not a cursor"):
        TASKS.find(after=cursor)


# Against a naive evaluation


documents = st.lists(
    st.fixed_dictionaries(
        {}, optional={name: st.sampled_from([None, True, False, 0, 1, 1.5, "a", "b", [1]]) for name in "xyz"}
    ),
    max_size=12,
)
orders = st.lists(st.sampled_from(["x", "-x", "y", "-y", "z", "-z"]), max_size=3).map(",".join)


@given(documents, orders, st.integers(1, 4))
async def test_pages_together_are_the_whole(found: list[Json], order: str, limit: int) -> None:
    source = Documents({str(n): document for n, document in enumerate(found)})
    order_by = order or None
    whole = await source.find(F("x") != 1, order_by=order_by).all()
    assert ids(whole) == _naive(source, order)
    pages, after = [], None
    while True:
        page = await source.find(F("x") != 1, order_by=order_by, limit=limit, after=after).page()
        pages += page.items
        after = page.next
        if after is None:
            break
        assert len(page.items) == limit
    assert pages == whole


@pytest.fixture
def shuffled() -> Documents:
    """More documents than are looked at without a pause, in no order, some with equal texts."""
    return Documents({f"{n * 797 % 3000:04}": {"x": f"{n * 311 % 1000:03}"} for n in range(3000)})


@pytest.mark.parametrize("order", [None, "x", "-x"])
@pytest.mark.parametrize("limit", [1, 255, 256, 257, 1000, 2999, 3000, 5000, sys.maxsize])
async def test_a_limit_gives_the_beginning_of_many(
    shuffled: Documents, order: str | None, limit: int
) -> None:
    whole = ids(await shuffled.find(order_by=order).all())
    query = shuffled.find(order_by=order, limit=limit)
    assert ids(await query.all()) == ids((await query.page()).items) == whole[:limit]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[_Reversed]:
    """What has been compared in falling order."""
    found: list[_Reversed] = []
    before = _Reversed.__lt__

    def counted(one: _Reversed, other: _Reversed) -> bool:
        found.append(one)
        return before(one, other)

    monkeypatch.setattr(_Reversed, "__lt__", counted)
    return found


async def test_a_limit_makes_no_query_dearer(shuffled: Documents, compared: list[_Reversed]) -> None:
    await shuffled.find(order_by="-x").all()
    without = len(compared)
    compared.clear()
    await shuffled.find(order_by="-x", limit=1000).all()
    assert len(compared) < 1.5 * without


async def test_what_cannot_be_among_the_first_is_compared_once(
    shuffled: Documents, compared: list[_Reversed]
) -> None:
    await shuffled.find(order_by="-x", limit=1).all()
    assert len(compared) < 2 * 3000


def _naive(source: Documents, order: str) -> list[str]:
    """What the manual says, one pair of documents at a time."""

    def rank(value: Any) -> int:
        kinds: list[Callable[[Any], bool]] = [
            lambda v: isinstance(v, bool),
            lambda v: isinstance(v, int | float),
            lambda v: isinstance(v, str),
            lambda v: v is not None,
        ]
        return next((place for place, test in enumerate(kinds) if test(value)), 4)

    def compare(one: tuple[str, Json], other: tuple[str, Json]) -> int:
        for field in filter(None, order.split(",")):
            a: Any = one[1].get(field.strip("-"))
            b: Any = other[1].get(field.strip("-"))
            if rank(a) != rank(b):
                result = -1 if rank(a) < rank(b) else 1
            elif rank(a) > 2 or a == b:
                continue
            else:
                result = -1 if a < b else 1
            if a is None or b is None or not field.startswith("-"):
                return result
            return -result
        return -1 if one[0] < other[0] else 1

    rows = [(id, msgspec.json.decode(row.data)) for id, row in source.stored.items()]
    rows = [row for row in rows if not (row[1].get("x") == 1 and row[1].get("x") is not True)]
    return [id for id, _ in sorted(rows, key=cmp_to_key(compare))]


# How it works


async def test_only_what_matches_is_decoded() -> None:
    tasks = Documents({str(n): {"n": n} for n in range(10)})
    await tasks.find(F("n") >= 8).all()
    assert sorted(tasks.decoded) == ["8", "9"]
    tasks.decoded.clear()
    await tasks.find(order_by="-n", limit=1).page()
    assert tasks.decoded == ["9"]
    tasks.decoded.clear()
    await tasks.find(n=3).count()
    assert tasks.decoded == []


async def test_a_query_sees_one_moment() -> None:
    tasks = Documents({str(n): {} for n in range(3)})
    seen = []
    async for document in tasks.find():
        tasks.stored.clear()
        seen.append(document["_id"])
    assert seen == ["0", "1", "2"]


async def test_a_query_can_be_used_again_and_then_sees_the_present() -> None:
    tasks = Documents({"a": {}})
    query = tasks.find()
    assert await query.count() == 1
    tasks.stored["b"] = StoredRow(b"{}")
    assert ids(await query.all()) == ["a", "b"]


@pytest.mark.parametrize(
    "rows", [{str(n): {} for n in range(2000)}, {str(n): {"x": "y" * 600_000} for n in range(4)}]
)
async def test_other_tasks_run_while_a_long_query_does(rows: Mapping[str, Json]) -> None:
    tasks = Documents(rows)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await tasks.find(F("x") != 1).count()
    while_matching = turns
    await tasks.find().all()
    other.cancel()
    assert while_matching >= 4
    assert turns - while_matching >= 4


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "class", "__dict__", "ä", "0", "__struct_fields__"])
async def test_a_field_may_have_any_name(name: str) -> None:
    tasks = Documents({"a": {name: 1, "z": 1}, "b": {"z": 1}, "c": {name: {"x": 2}}})
    assert ids(await tasks.find(F([name]) == 1, z=1).all()) == ["a"]
    assert ids(await tasks.find(F([name, "x"]) == 2).all()) == ["c"]
    assert ids(await tasks.find(~F([name]).exists()).all()) == ["b"]


# Arguments


class Result(BaseModel):
    tests_passed: bool = Field(alias="testsPassed")


class Task(BaseModel):
    id: str
    status: str = ""
    created_at: int = Field(0, alias="createdAt")
    result: Result | None = None
    steps: list[Result] = []
    by_name: dict[str, Result] = {}
    anything: Any = None
    password: str = Field("", exclude=True)

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's manual has it
    @property
    def age(self) -> int:
        return 1


class EitherTask(BaseModel):
    result: Result | dict[str, Any]


class OpenTask(Task):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statsu": 1}, "Task has no field 'statsu'; did you mean status?"),
        ({"where": F("zzz").exists()}, "Task has no field 'zzz'; it has id, status, created_at"),
        ({"order_by": "-updated_at"}, "Task has no field 'updated_at'; did you mean created_at?"),
        ({"where": ~(F("id") == 1) | F("result.test_passed").exists()}, "Result has no field 'test_passed'"),
        ({"where": F("steps.0.x").exists()}, "Result has no field 'x'"),
        ({"where": F("by_name.k.x").exists()}, "Result has no field 'x'"),
        ({"age": 1}, "Task has no field 'age'"),
        ({"password": ""}, "Task does not store its field 'password'"),
    ],
    ids=str,
)
def test_fields_that_the_model_does_not_know_are_refused(options: Json, message: str) -> None:
    where = options.pop("where", None)
    with pytest.raises(InvalidArgumentError, match=message.replace("?", r"\?")):
        TASKS.find(where, model=Task, **options)


Written = Annotated[list[str], PlainSerializer(lambda value: dict.fromkeys(value, 1))]


class Lists(BaseModel):
    steps: list[Result] = Field([], alias="theSteps")
    maybe: Sequence[str] | None = None
    either: list[str] | dict[str, str] = []
    written: Written = []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("steps.tests_passed", r"theSteps is a list.* such as theSteps\.0\.tests_passed or theSteps\.-1\."),
        ("theSteps.tests_passed", r"theSteps is a list.* such as theSteps\.0\.tests_passed"),
        ("maybe.x", "'x' no place in it"),
    ],
)
def test_what_is_looked_for_in_a_list_needs_a_place(path: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        TASKS.find(F(path) == 1, model=Lists)
    with pytest.raises(InvalidArgumentError, match=message):
        TASKS.find(order_by=path, model=Lists)


@pytest.mark.parametrize("path", ["steps.0.tests_passed", "maybe.-1", "either.x", "written.x"])
def test_what_has_a_place_or_may_be_no_list_is_looked_for(path: str) -> None:
    TASKS.find(F(path) == 1, model=Lists)


async def test_a_model_that_takes_any_field_takes_any_in_queries() -> None:
    tasks = Documents({"a": {"colour": "red"}})
    assert await tasks.find(model=OpenTask, colour="red").count() == 1


async def test_an_object_that_may_be_of_no_model_has_any_field_and_those_of_the_model_by_name() -> None:
    tasks = Documents({"a": {"result": {"score": 3}}, "b": {"result": {"testsPassed": True}}})
    assert ids(await tasks.find(F("result.score") == 3, model=EitherTask).all()) == ["a"]
    assert ids(await tasks.find(F("result.tests_passed") == True, model=EitherTask).all()) == ["b"]  # noqa: E712


async def test_fields_are_given_by_name_or_by_alias() -> None:
    tasks = Documents(
        {
            "a": {
                "createdAt": 5,
                "result": {"testsPassed": True},
                "steps": [{"testsPassed": True}],
                "by_name": {"k": {"testsPassed": True}},
                "anything": {"tests_passed": True},
            }
        }
    )
    for where in (
        F("created_at") == 5,
        F("createdAt") == 5,
        F("result.tests_passed") == True,  # noqa: E712 - builds a filter
        F("result.testsPassed") == True,  # noqa: E712
        F("steps.0.tests_passed") == True,  # noqa: E712
        F("by_name.k.tests_passed") == True,  # noqa: E712
        F("anything.tests_passed") == True,  # noqa: E712
    ):
        assert await tasks.find(where, model=Task).count() == 1
    assert await tasks.find(model=Task, created_at=5, order_by="-created_at").count() == 1


def joined_by_turns(times: int) -> Filter:
    where = F("n") == 0
    for n in range(times):
        where = (where & (F("m") != n)) | (F("n") == n)
    return where


def reversed_again(times: int) -> Filter:
    where = F("n") == 0
    for _ in range(times):
        where = ~where
    return where


@pytest.mark.parametrize("make", [joined_by_turns, reversed_again])
async def test_filters_that_lie_in_each_other_too_deep_are_refused(make: Callable[[int], Filter]) -> None:
    with pytest.raises(InvalidArgumentError, match="others within it, 100 deep"):
        TASKS.find(make(3000))
    TASKS.find(make(49))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is a whole number from 1"),
        ({"limit": True}, "limit is a whole number from 1"),
        ({"limit": "2"}, "limit is a whole number from 1"),
        ({"order_by": ""}, "is no path of a field"),
        ({"order_by": "a,,b"}, "is no path of a field"),
        ({"order_by": "-"}, "is no path of a field"),
        ({"order_by": ["a"]}, "order_by is a text such as '-updated_at,id', not list"),
        ({"n": float("nan")}, "JSON does not have it"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_are_refused_at_once(options: Json, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        TASKS.find(**options)


def test_a_filter_is_made_with_f() -> None:
    with pytest.raises(InvalidArgumentError, match="find takes a filter"):
        TASKS.find(True)  # type: ignore[arg-type]  # the mistake
