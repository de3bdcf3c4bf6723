from __future__ import annotations

import math
import operator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import reduce
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field
from statepath.engine.documents import decode, encode_model
from statepath.errors import InvalidArgumentError
from statepath.filters import And, F, Filter, Or, order_key, parse_path
from statepath.models import Task, TaskLogEntry

MISSING = object()
TEXTS = ["", "a", "b", "1", "2024-01-01T10:00:00Z", "2024-01-01T12:00:00+02:00"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, 1.0, 1.5])
    | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5))])
instants = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001 - in a zone of the line below
    datetime(2000, 1, 2),  # noqa: DTZ001
    timezones=zones,
)
numbers = st.integers(-3, 3) | st.floats(-3, 3, allow_nan=False)


def matches(where: Filter, held: object) -> bool:
    return where.matches({} if held is MISSING else {"a": held})  # type: ignore[dict-item]  # JSON, in each test


def kind(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return names.get(type(value), "null")


# Equality


@given(values)
def test_every_value_equals_itself(value: Any) -> None:
    assert matches(F("a") == value, value)


@given(values, values)
def test_equality_is_that_of_json(held: Any, wanted: Any) -> None:
    assert matches(F("a") == wanted, held) is (_canonical(held) == _canonical(wanted))


def _canonical(value: Any) -> Any:
    if isinstance(value, list):
        return "list", [_canonical(element) for element in value]
    if isinstance(value, dict):
        return "object", {name: _canonical(member) for name, member in value.items()}
    return kind(value), value


@given(values, values)
def test_unequal_is_the_opposite_of_equal(held: Any, wanted: Any) -> None:
    assert matches(F("a") != wanted, held) is not matches(F("a") == wanted, held)


@pytest.mark.parametrize(
    ("held", "wanted"), [(True, 1), (0, False), ("1", 1), ([True], [1]), ({"x": 0}, {"x": False})]
)
def test_values_of_different_kinds_are_never_equal(held: Any, wanted: Any) -> None:
    assert not matches(F("a") == wanted, held)


def test_a_missing_field_counts_as_null() -> None:
    assert matches(F("a") == None, MISSING)  # noqa: E711 - builds a filter
    assert matches(F("a") != "x", MISSING)
    assert matches(F("a").in_(["x", None]), MISSING)
    assert not matches(F("a") == 0, MISSING)


def test_exists_tells_a_missing_field_from_null() -> None:
    assert matches(F("a").exists(), None)
    assert not matches(F("a").exists(), MISSING)
    assert matches(~F("a").exists(), MISSING)


# Order


@given(numbers, numbers)
def test_numbers_are_ordered_by_value(held: float, wanted: float) -> None:
    _is_ordered(held, wanted, held < wanted, held == wanted)


@given(st.text(max_size=3), st.text(max_size=3))
def test_texts_are_ordered_by_code_point(held: str, wanted: str) -> None:
    _is_ordered(held, wanted, held < wanted, held == wanted)


@given(instants, instants, st.booleans())
def test_texts_of_dates_with_a_time_are_ordered_by_their_instant(
    held: datetime, wanted: datetime, as_text: bool
) -> None:
    operand = wanted.isoformat() if as_text else wanted
    _is_ordered(held.isoformat(), operand, held < wanted, held == wanted)


def _is_ordered(held: Any, wanted: Any, less: bool, same: bool) -> None:
    assert matches(F("a") < wanted, held) is less
    assert matches(F("a") <= wanted, held) is (less or same)
    assert matches(F("a") > wanted, held) is not (less or same)
    assert matches(F("a") >= wanted, held) is not less


@given(values, st.sampled_from([0, 1.5, "a", "2024-01-01T10:00:00Z"]))
def test_different_kinds_have_no_order(held: Any, wanted: Any) -> None:
    if kind(held) != kind(wanted):
        for where in (F("a") < wanted, F("a") <= wanted, F("a") > wanted, F("a") >= wanted):
            assert not matches(where, held)


def test_missing_fields_have_no_order() -> None:
    assert not matches(F("a") < 1, MISSING)
    assert not matches(F("a") >= "", MISSING)


class Price(Enum):
    LOW = Decimal("1.50")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        [1],
        {"a": 1},
        Decimal(1),
        Price.LOW,
        timedelta(1),
        ip_address("10.0.0.9"),
        F("b"),
        F("b") == 1,
    ],
)
def test_only_numbers_texts_and_dates_can_be_ordered(value: object) -> None:
    for compare in (F.__lt__, F.__le__, F.__gt__, F.__ge__):
        with pytest.raises(InvalidArgumentError):
            compare(F("a"), value)


# Dates


TEN = datetime(2024, 1, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01T10:00:00Z",
        "2024-01-01T10:00:00.000Z",
        "2024-01-01T12:00:00+02:00",
        "2024-01-01 10:00",
        "2024-01-01T10:00:00",
    ],
)
def test_a_datetime_equals_each_text_of_its_instant(text: str) -> None:
    assert matches(F("a") == TEN, text)
    assert matches(F("a") >= TEN, text)
    assert not matches(F("a") > TEN, text)
    assert matches(F("a").in_([TEN]), text)
    assert matches(F("a").contains(TEN), [text])


def test_a_text_is_equal_to_its_very_text_only() -> None:
    assert not matches(F("a") == "2024-01-01T10:00:00Z", "2024-01-01T12:00:00+02:00")


def test_a_datetime_without_a_zone_is_in_utc() -> None:
    assert matches(F("a") == datetime(2024, 1, 1, 10), "2024-01-01T10:00:00Z")  # noqa: DTZ001 - the point


def test_a_date_is_the_midnight_it_begins_with() -> None:
    assert matches(F("a") == date(2024, 1, 1), "2024-01-01")
    assert matches(F("a") >= date(2024, 1, 1), "2024-01-01T00:00:00Z")
    assert not matches(F("a") < date(2024, 1, 1), "2024-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "held", ["banana", "2024-13-01T10:00:00Z", 20240101, None, ["2024-01-01T10:00:00Z"], MISSING]
)
def test_what_is_no_date_is_neither_before_nor_after_one(held: object) -> None:
    for ten in (TEN, TEN.isoformat()):
        assert not matches(F("a") < ten, held)
        assert not matches(F("a") >= ten, held)
    assert matches(F("a") != TEN, held)


def test_what_only_looks_like_a_date_is_a_text() -> None:
    assert matches(F("a") < "b", "2024-99-99T99:99")
    assert matches(F("a") < "2024-99-99T99:99", "2024-01-01T10:00:00Z")


def test_a_date_beyond_the_calendar_in_utc_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no date in UTC"):
        F("a") == datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))  # noqa: B015 - raises


# The other conditions


def test_in_is_equality_with_one_of_several() -> None:
    where = F("a").in_(["x", 1, None, [1]])
    equal: list[Any] = ["x", 1, 1.0, None, [1]]
    unequal: list[Any] = ["y", True, "1", [], [True], {}]
    assert all(matches(where, value) for value in equal)
    assert not any(matches(where, value) for value in unequal)
    assert not matches(F("a").in_([]), None)


def test_in_takes_no_text() -> None:
    with pytest.raises(InvalidArgumentError, match="contains"):
        F("a").in_("abc")


def test_contains_looks_into_lists_texts_and_names() -> None:
    assert matches(F("a").contains(1), [0, 1])
    assert not matches(F("a").contains(1), [True, "1"])
    assert matches(F("a").contains({"x": 1}), [{"x": 1}])
    assert matches(F("a").contains("bc"), "abcd")
    assert matches(F("a").contains("x"), {"x": 1})
    for held in (None, 12, True, MISSING, "1", {"1": 1}):
        assert not matches(F("a").contains(1), held)


def test_startswith_is_for_texts() -> None:
    assert matches(F("a").startswith("ab"), "abc")
    for held in ("ba", None, 1, ["ab"], {"ab": 1}, MISSING):
        assert not matches(F("a").startswith("ab"), held)
    with pytest.raises(InvalidArgumentError, match="startswith takes a str, not int"):
        F("a").startswith(1)  # type: ignore[arg-type]  # the mistake


# Joined


@given(values)
def test_filters_are_joined_as_logic_has_it(held: Any) -> None:
    one, other = F("a") == 1, F("a").exists() & ~(F("a") == "a")
    p, q = matches(one, held), matches(other, held)
    assert matches(one & other, held) is (p and q)
    assert matches(one | other, held) is (p or q)
    assert matches(~one, held) is (not p)
    assert matches(one | other & ~one, held) is (p or (q and not p))


@pytest.mark.parametrize("join", [lambda f: f and f, lambda f: f or f, lambda f: not f, lambda f: 1 < f < 2])
def test_python_s_own_logic_is_refused(join: Any) -> None:
    with pytest.raises((InvalidArgumentError, TypeError)):
        join(F("a") == 1)
    with pytest.raises((InvalidArgumentError, TypeError)):
        join(F("a"))


@pytest.mark.parametrize("other", [True, None, "x", F("a")])
def test_filters_are_joined_with_filters_only(other: Any) -> None:
    with pytest.raises(TypeError):
        (F("a") == 1) & other
    with pytest.raises(TypeError):
        (F("a") == 1) | other


# Paths


DOCUMENT: Any = {
    "result": {"files": [{"name": "x"}, {"name": "y"}], "a.b": 1, "0": "zero"},
    "logs": ["first", "last"],
    "": "empty",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("result.files.0.name", "x"),
        ("result.files.-1.name", "y"),
        ("logs.1", "last"),
        ("logs.-2", "first"),
        ("result.0", "zero"),
        (["result", "a.b"], 1),
        (("logs", "0"), "first"),
    ],
)
def test_a_path_leads_through_objects_and_lists(path: Any, value: object) -> None:
    assert (F(path) == value).matches(DOCUMENT)


@pytest.mark.parametrize(
    "path",
    [
        "result.files.name",
        "result.files.2",
        "result.files.-3",
        "logs.x",
        "logs.0.x",
        "no.such",
        "result.a.b",
        "logs.1e0",
    ],
)
def test_a_path_that_leads_nowhere_is_missing(path: str) -> None:
    assert not F(path).exists().matches(DOCUMENT)


@pytest.mark.parametrize("document", [None, 1, "a", [], [{"a": 1}]])
def test_what_is_no_object_has_no_fields(document: Any) -> None:
    assert not F("a").exists().matches(document)


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", [], [""], ["a", ""], 7, None, {"a"}, [1]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="is no path of a field"):
        F(path)


def test_a_filter_tells_its_fields() -> None:
    where = (F("a.b") == 1) & ~(F(["c.d"]).exists() | F("e").in_([1]))
    assert list(where.paths()) == [("a", "b"), ("c.d",), ("e",)]


# Values to compare with


class Colour(Enum):
    RED = "red"


class Point(BaseModel):
    x: int = 1

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's manual has it
    @property
    def doubled(self) -> int:
        return 2 * self.x


class Own(BaseModel):
    id: str
    logs: list[TaskLogEntry]


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (Colour.RED, "red"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.5"), "1.5"),
        (Path("a/b"), "a/b"),
        (Point(), {"x": 1}),
        ([Point()], [{"x": 1}]),
        (TaskLogEntry(message="m"), {"level": "info", "type": "system", "message": "m"}),
        ((1, 2), [1, 2]),
        (timedelta(seconds=30), "PT30S"),
    ],
)
def test_a_value_is_compared_as_a_model_would_write_it(value: object, held: object) -> None:
    assert matches(F("a") == value, held)


@pytest.mark.parametrize("document", [Task, Own])
def test_a_model_in_a_field_is_found_in_documents_of_either_kind(document: type[Task | Own]) -> None:
    entry = TaskLogEntry(message="m")
    stored = decode(encode_model(document(id="a", logs=[entry]), key="a"))
    other = TaskLogEntry(message="n")
    for where in (
        F("logs.0") == entry,
        F("logs") == [entry],
        F("logs").contains(entry),
        F("logs.0").in_([other, entry]),
        F("logs.0") != other,
    ):
        assert where.matches(stored)
        assert not (~where).matches(stored)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), F("b"), F("b") == 1])
def test_what_no_document_holds_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError):
        F("a") == value  # noqa: B015 - raises


def test_filters_are_values() -> None:
    assert isinstance(F("a") == 1, Filter)
    assert {F("a") == 1, F("a") == 1} == {F("a") == 1}
    assert repr(F("a.b")) == "F('a.b')"
    assert repr(F(["a.b"])) == "F(('a.b',))"
    assert parse_path("a.b") == ("a", "b")
    with pytest.raises(TypeError, match="unhashable"):
        hash(F("a"))


@given(values, values)
def test_the_order_of_kinds_is_total(one: Any, other: Any) -> None:
    assert (order_key(one) < order_key(other)) + (order_key(other) < order_key(one)) + (
        order_key(one) == order_key(other)
    ) == 1


@pytest.mark.parametrize(("join", "found"), [(operator.or_, True), (operator.and_, False)])
def test_any_number_of_filters_can_be_joined(join, found):
    where = reduce(join, [F("n") == n for n in range(5000)])
    assert where.matches({"n": 4999}) is found
    assert len(set(where.paths())) == 1


def test_what_is_joined_otherwise_stays_together():
    one, two, three = (F(name) == 1 for name in "abc")
    assert (one | two) & three == And((Or((one, two)), three))
    assert one & (two & three) == And((one, two, three))
