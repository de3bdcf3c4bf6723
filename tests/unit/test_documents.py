from __future__ import annotations

import json
import math
import tracemalloc
from collections import OrderedDict, UserDict
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass
from statepath.commit import append_items
from statepath.engine import elements, rereading, schema, scope, unknown
from statepath.engine.documents import (
    MAX_DEPTH,
    decode,
    encode_mapping,
    encode_model,
    encode_value,
    parse_untrusted,
    pretty,
)
from statepath.engine.documents import texts as read_texts
from statepath.engine.elements import stored_list
from statepath.engine.schema import stored_path
from statepath.engine.unknown import keep_unknown
from statepath.errors import InvalidArgumentError
from typing_extensions import TypeAliasType

KEY = "tasks/task_1"
LIMIT = 10_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)


def refused(*words: str) -> Any:
    """The error of a document names it, the cause and the next step."""
    return pytest.raises(InvalidArgumentError, match=".*".join([KEY + ": ", *words, "; "]))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def put(value: dict[str, Any]) -> bytes:
    return encode_mapping(value, key=KEY, limit=LIMIT)


def save(model: BaseModel) -> bytes:
    return encode_model(model, key=KEY, limit=LIMIT)


def parse(text: bytes | str) -> JsonValue:
    return parse_untrusted(text if isinstance(text, bytes) else text.encode(), key=KEY, limit=LIMIT)


class Entry(BaseModel):
    level: str = "info"
    score: float | None = None


class Task(BaseModel):
    id: str = "task_1"
    score: float | None = None
    logs: list[Entry] = []
    result: Any = None


class Limit(Enum):
    NONE = math.inf


# Mappings


@given(objects)
def test_a_mapping_of_json_values_comes_back_equal(value: dict[str, Any]) -> None:
    assert json.loads(put(value)) == value
    assert decode(put(value)) == value


def test_the_texts_of_a_document_are_told_whatever_else_it_holds() -> None:
    assert read_texts(b'{"id":"a","x":1,"deep":{"b":"c"},"t":"\\u00e9"}') == {"id": "a", "t": "é"}
    assert read_texts(b'{"id":"a","x":%s}' % (b"1" * 5000)) == {"id": "a"}
    assert read_texts(b'{"id":"a"') == read_texts(b"[]") == read_texts(b'{"id":"\xff"}') == {}


def test_a_document_is_compact_utf8() -> None:
    assert put({"text": "Größe", "list": [1, 2.5, None]}) == '{"text":"Größe","list":[1,2.5,null]}'.encode()


@pytest.mark.parametrize(
    "value",
    [MappingProxyType({"a": 1}), UserDict({"a": 1}), OrderedDict(a=1)],
    ids=lambda value: type(value).__name__,
)
def test_any_mapping_can_be_a_document(value: Any) -> None:
    assert put(value) == b'{"a":1}'


def test_tuples_and_text_enums_are_what_json_makes_of_them() -> None:
    class Status(StrEnum):
        DONE = "done"

    assert put({"a": (1, (2,)), "status": Status.DONE}) == b'{"a":[1,[2]],"status":"done"}'


@pytest.mark.parametrize("kind", [str, int, float])
def test_a_subclass_of_a_json_type_counts_as_that_type(kind: type) -> None:
    value = type("Own", (kind,), {})(1)
    assert decode(put({"a": [value]})) == {"a": [kind(1)]}


def test_integers_of_any_size_are_kept() -> None:
    assert decode(put({"a": 2**200, "b": -(2**64)})) == {"a": 2**200, "b": -(2**64)}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({1, 2}, "set"),
        (frozenset(), "frozenset"),
        (b"bytes", "bytes"),
        (bytearray(b"x"), "bytearray"),
        (datetime(2024, 1, 1, tzinfo=UTC), "datetime"),
        (Decimal(1), "Decimal"),
        (UUID(int=1), "UUID"),
        (Path("a"), "PosixPath"),
        (1j, "complex"),
        (object(), "object"),
        (MappingProxyType({}), "mappingproxy"),
        (Task(), "Task"),
        (Enum("Colour", "RED").RED, "Colour"),  # type: ignore[attr-defined]  # made by name
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_does_not_have_is_refused_by_its_place(value: object, kind: str) -> None:
    with refused(r"at result\.list\[1\] is of type " + kind):
        put({"result": {"list": [0, value]}})


@pytest.mark.parametrize("name", [1, 1.5, None, True, (1,), b"a"])
def test_keys_are_text(name: object) -> None:
    with refused("the key .* at result is", "JSON keys are text"):
        put({"result": {name: 1}})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with refused(r"the number at a\[0\] is"):
        put({"a": [number], "b": "null"})


def test_lone_surrogates_are_refused() -> None:
    with refused("the text at a has a lone surrogate"):
        put({"a": "\ud800"})


def test_a_document_may_have_a_hundred_levels_and_no_more() -> None:
    assert decode(put(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with refused("deeper than 100 levels"):
        put(nested(MAX_DEPTH + 1))


def test_brackets_in_texts_and_beside_each_other_add_no_depth() -> None:
    value = {"a": '{["' * 200 + "\\" * 3, "b": [[{}]] * 200}
    assert decode(put(value)) == value


@pytest.mark.parametrize("kind", [dict, list])
def test_a_value_that_contains_itself_is_refused(kind: type) -> None:
    value: dict[str, Any] = {"a": []}
    value["a"].append(value if kind is dict else value["a"])
    with refused("contains itself"):
        put(value)


def test_a_document_over_the_limit_is_refused() -> None:
    assert put({"a": "x" * (LIMIT - 8)})
    with refused("it has 10,001 bytes, and the limit is 10,000"):
        put({"a": "x" * (LIMIT - 7)})


@pytest.mark.parametrize("value", [[1], "text", 7, None])
def test_a_document_is_an_object(value: Any) -> None:
    with refused("a document is a JSON object, not"):
        put(value)


def test_the_error_knows_the_document() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        put({"a": {1}})
    assert caught.value.key == KEY


# Models


def test_a_model_comes_back_equal() -> None:
    task = Task(score=1.5, logs=[Entry(level="null")], result={"a": None})
    assert Task.model_validate_json(save(task)) == task


def test_a_model_is_written_by_alias_so_that_it_can_be_read_again() -> None:
    class Camel(BaseModel):
        created_at: int = Field(alias="createdAt")

    assert save(Camel(createdAt=1)) == b'{"createdAt":1}'


def test_computed_fields_are_not_stored() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: int = 1

        @computed_field  # type: ignore[prop-decorator]  # as pydantic's manual has it
        @property
        def twice(self) -> int:
            return 2 * self.a

    assert Strict.model_validate_json(save(Strict())) == Strict()


@pytest.mark.parametrize(
    ("task", "place"),
    [
        (Task(score=math.nan), "score"),
        (Task(logs=[Entry(), Entry(score=math.inf)]), r"logs\[1\]\.score"),
        (Task(result={"a": [-math.inf]}), r"result\.a\[0\]"),
        (Task(result=[Entry(score=math.nan)]), r"result\[0\]\.score"),
        (Task(result=(math.nan,)), r"result\[0\]"),
        (Task(result={math.nan}), r"result\[0\]"),
        (Task(result=Limit.NONE), "result"),
    ],
)
def test_numbers_in_a_model_that_are_not_finite_are_refused(task: Task, place: str) -> None:
    with refused(f"the number at {place} is"):
        save(task)


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    a: float


class Anything(BaseModel):
    held: Any


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (Constants(a=math.nan), "a"),
        (Constants(a=-math.inf), "a"),
        (Anything(held=Constants(a=math.inf)), r"held\.a"),
        (Open.model_validate({"held": Constants(a=math.nan)}), r"held\.a"),
    ],
)
def test_numbers_that_a_model_would_write_as_they_are_must_be_finite_too(
    model: BaseModel, place: str
) -> None:
    with refused(f"the number at {place} is"):
        save(model)


def test_numbers_that_a_model_inside_the_model_keeps_beside_its_fields_must_be_finite_too() -> None:
    class Outer(BaseModel):
        inner: Open

    with refused(r"the number at inner\.held is"):
        save(Outer(inner=Open.model_validate({"held": math.nan})))


def test_the_words_for_such_numbers_may_stand_in_texts() -> None:
    assert save(Anything(held="NaN Infinity")) == b'{"held":"NaN Infinity"}'


def test_null_beside_objects_that_are_no_models_is_no_obstacle() -> None:
    assert b'"result":{"path":"/a","text":null}' in save(Task(result={"path": Path("/a"), "text": None}))


class Held(BaseModel):
    held: dict[str, Any]


def test_what_is_long_is_not_written_again_to_see_that_few_values_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("statepath.engine.documents._writes_no_null", lambda values: pytest.fail("written"))
    assert len(save(Held(held={"text": "x" * 9_000}))) > 9_000


@pytest.mark.parametrize(
    ("written", "told"), [(nested(150), "deep"), (math.inf, "not write valid JSON|number")]
)
def test_what_an_object_writes_of_itself_is_looked_at(written: Any, told: str) -> None:
    @dataclass(config=ConfigDict(ser_json_inf_nan="constants"))
    class Own:
        x: Any = 1

        @field_serializer("x")
        def write(self, _: Any) -> Any:
            return written

    with refused(told):
        save(Held(held={"one": Own()}))


def test_a_value_of_another_type_than_its_field_is_refused() -> None:
    with refused("the field 'id' holds a value of type int, and is declared as str"):
        save(Task().model_copy(update={"id": 4711}))


def test_the_refused_value_is_not_quoted() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        save(Task().model_copy(update={"id": b"hunter2"}))
    assert "hunter2" not in str(caught.value)


def test_what_pydantic_cannot_write_is_refused() -> None:
    with refused("Unable to serialize unknown type"):
        save(Task(result=object()))


def test_a_lone_surrogate_in_a_model_is_refused() -> None:
    with refused("a text has a lone surrogate"):
        save(Task(result="\udfff"))


def test_a_model_that_contains_itself_is_refused() -> None:
    task = Task()
    task.result = task
    with refused("Circular reference"):
        save(task)


def test_a_model_must_be_stored_as_an_object() -> None:
    with refused("is not stored as a JSON object"):
        save(RootModel[list[int]]([1]))


def test_a_model_is_bounded_in_depth_and_size() -> None:
    assert save(Task(result=nested(MAX_DEPTH - 1)))
    with refused("deeper than 100 levels"):
        save(Task(result=nested(MAX_DEPTH)))
    with refused("the limit is 10,000"):
        save(Task(result="x" * LIMIT))


def test_a_serializer_may_not_write_too_deep_either() -> None:
    class Unfolding(BaseModel):
        levels: int

        @field_serializer("levels")
        def write(self, value: int) -> Any:
            return nested(value)

    assert save(Unfolding(levels=MAX_DEPTH - 1))
    with refused("deeper than 100 levels"):
        save(Unfolding(levels=MAX_DEPTH))


def test_the_types_of_a_class_alone_may_not_be_too_deep_either() -> None:
    kind: Any = int
    for _ in range(MAX_DEPTH):
        kind = list[kind]
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    deep = create_model("Deep", a=(kind, ...))
    with refused("deeper than 100 levels"):
        save(deep(a=value))


class Aliased(BaseModel):
    a: int = Field(default=1, alias="_statepath")


class Written(BaseModel):
    @model_serializer
    def write(self) -> dict[str, int]:
        return {"_statepath": 1}


@pytest.mark.parametrize(
    "model",
    [
        Aliased(),
        Written(),
        Open.model_validate({"_statepath": 1}),
        RootModel[dict[str, int]]({"_statepath": 1}),
    ],
    ids=["alias", "serializer", "extra", "root"],
)
def test_a_model_cannot_write_the_member_that_is_the_stores_own(model: BaseModel) -> None:
    with refused("the member '_statepath' is the store's own"):
        save(model)


def test_a_serializer_that_writes_no_json_is_refused() -> None:
    class Broken(BaseModel):
        a: int = 1

        @field_serializer("a")
        def write(self, value: int) -> Any:
            raise ValueError("no way")

    with refused("no way"):
        save(Broken())


# Values


@given(values)
def test_any_json_value_can_be_an_element(value: Any) -> None:
    assert json.loads(encode_value(value, key=KEY)) == value


def test_a_model_can_be_an_element_or_a_report() -> None:
    assert encode_value(Entry(), key=KEY) == b'{"level":"info","score":null}'
    assert encode_value(RootModel[list[int]]([1]), key=KEY) == b"[1]"
    assert encode_value(MappingProxyType({"a": 1}), key=KEY) == b'{"a":1}'


@pytest.mark.parametrize("value", [math.nan, {1}, b"x", "\ud800", {1: 2}, object()])
def test_an_element_is_checked_like_a_document(value: object) -> None:
    with refused():
        encode_value(value, key=KEY)


# Foreign text


@given(values)
def test_valid_json_is_parsed_as_json_says(value: Any) -> None:
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value, ensure_ascii=False, indent=3)) == value


@given(values)
def test_what_was_parsed_can_be_stored(value: Any) -> None:
    assert encode_value(parse(json.dumps(value)), key=KEY) == encode_value(value, key=KEY)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"{} {}", "Extra data"),
        (b"{'a': 1}", "double quotes"),
        (b'{"a": 1,}', "line 1"),
        (b'"\n"', "control character"),
        (b'{"a": "\xff"}', "byte 8 is not UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' occurs twice"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' occurs twice"),
        (b'{"a": NaN}', "the number NaN"),
        (b"[-Infinity]", "the number -Infinity"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"[" + b"9" * 5000 + b"]", "too many digits"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\udc00": 1}', "lone surrogate"),
        (b'["\\ud800"]', "lone surrogate"),
        (b'[[["\\ud800"]]]', "lone surrogate"),
        (b'"\\ud800"', "lone surrogate"),
        (b"[" * 101 + b"]" * 101, "deeper than 100 levels"),
        (b"[" * 9000, "deeper than 100 levels"),
        (b'{"a":' * 1500, "deeper than 100 levels"),
        (b" " * 10_001, "it has 10,001 bytes"),
    ],
    ids=range(22),
)
def test_text_that_cannot_be_a_document_is_refused_with_its_cause(text: bytes, cause: str) -> None:
    with refused(cause):
        parse(text)


def test_depth_is_counted_in_structure_only() -> None:
    assert parse(b"[" * 100 + b"]" * 100)
    assert parse(json.dumps(["[" * 500, '\\"[{' * 100]))


@given(st.binary(max_size=40) | st.text('[]{}":,\\ud80a1eN-', max_size=40).map(str.encode))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        value = parse(data)
    except InvalidArgumentError:
        return
    assert json.loads(data.decode("utf-8-sig")) == value


# Splices


@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_elements_are_appended_to_a_list(before: list[Any], more: list[Any]) -> None:
    document = put({"id": "x", "logs": before, "z": 1})
    after = append_items(document, "logs", [encode_value(value, key=KEY) for value in more])
    assert json.loads(after) == {"id": "x", "logs": before + more, "z": 1}


def test_appending_leaves_the_text_of_all_else_as_it_was() -> None:
    assert (
        append_items(b'{"n":1.50,"l":[1e2, 2],"t":"\\u0041"}', "l", [b"3.0"])
        == b'{"n":1.50,"l":[1e2, 2,3.0],"t":"\\u0041"}'
    )


@pytest.mark.parametrize("document", [b'{"id":"x"}', b'{"id":"x","l":null}', b'{"id":"x","l":[ ]}'])
def test_a_missing_null_or_empty_field_becomes_a_list(document: bytes) -> None:
    assert append_items(document, "l", [b"1", b"2"]) == b'{"id":"x","l":[1,2]}'


@pytest.mark.parametrize("held", ["1", '"[]"', "{}", "true"])
def test_nothing_is_appended_to_what_is_no_list(held: str) -> None:
    with pytest.raises(InvalidArgumentError, match="'l' is not a list"):
        append_items(f'{{"l":{held}}}'.encode(), "l", [b"1"])


def test_pretty_is_for_people_and_keeps_the_text_of_numbers() -> None:
    assert (
        pretty(b'{"a":1.50,"b":[1e2],"c":{}}') == b'{\n  "a": 1.50,\n  "b": [\n    1e2\n  ],\n  "c": {}\n}\n'
    )


# Fields that a model does not know


class Step(BaseModel):
    name: str


class IdStep(BaseModel):
    id: str
    done: bool = False


class Plan(BaseModel):
    id: str = "p"
    first: Step | None = None
    steps: list[Step] = []
    by_name: dict[str, Step] = {}
    marked: tuple[IdStep, ...] = ()
    child: Plan | None = None
    nested: dict[str, list[Step]] = {}


class Ahead(BaseModel):
    """Names a class that is not there yet, as `from __future__ import annotations` allows."""

    later: Later | None = None
    many: list[Later] = []


class Later(BaseModel):
    name: str = ""


Steps = TypeAliasType("Steps", list[Step])
MaybeText = TypeAliasType("MaybeText", str | None)
FirstStep = NewType("FirstStep", Step)
UserId = NewType("UserId", int)


def kept(new: dict[str, Any], old: dict[str, Any], model: type[BaseModel] = Plan) -> Any:
    return json.loads(keep_unknown(json.dumps(new).encode(), json.dumps(old).encode(), model))


def test_fields_that_the_model_does_not_know_are_kept() -> None:
    assert kept({"id": "new"}, {"id": "old", "colour": "red"}) == {"id": "new", "colour": "red"}


def test_kept_fields_keep_their_text() -> None:
    assert keep_unknown(b'{"id":"p"}', b'{"id":"p","n":1.50}', Plan) == b'{"id":"p","n":1.50}'


def test_a_known_field_that_is_gone_stays_gone() -> None:
    assert kept({"id": "p"}, {"id": "p", "first": {"name": "a"}}) == {"id": "p"}


def test_a_document_without_unknown_fields_is_returned_as_it_is() -> None:
    new = b'{"id": "p",  "first": null}'
    assert keep_unknown(new, b'{"id":"q","first":{"name":"a"}}', Plan) is new


@pytest.mark.parametrize("extra", ["allow", "forbid"])
def test_a_model_that_holds_or_refuses_unknown_fields_gets_none(extra: Any) -> None:
    class Own(BaseModel):
        model_config = ConfigDict(extra=extra)
        id: str

    new = b'{"id":"p"}'
    assert keep_unknown(new, b'{"id":"p","colour":"red"}', Own) is new


def test_unknown_fields_of_models_inside_a_model_are_kept() -> None:
    old = {
        "first": {"name": "a", "x": 1},
        "by_name": {"k": {"name": "a", "x": 2}, "gone": {"name": "b", "x": 3}},
        "child": {"first": {"name": "a", "x": 4}},
        "nested": {"k": [{"name": "a", "x": 5}]},
    }
    new = {
        "first": {"name": "b"},
        "by_name": {"k": {"name": "b"}, "new": {"name": "c"}},
        "child": {"first": {"name": "b"}},
        "nested": {"k": [{"name": "a"}]},
    }
    assert kept(new, old) == {
        "first": {"name": "b", "x": 1},
        "by_name": {"k": {"name": "b", "x": 2}, "new": {"name": "c"}},
        "child": {"first": {"name": "b", "x": 4}},
        "nested": {"k": [{"name": "a", "x": 5}]},
    }


def test_a_model_that_holds_unknown_fields_may_contain_one_that_does_not() -> None:
    class Holder(BaseModel):
        model_config = ConfigDict(extra="allow")
        first: Step

    new, old = {"first": {"name": "b"}}, {"first": {"name": "a", "x": 1}, "y": 2}
    assert kept(new, old, Holder) == {"first": {"name": "b", "x": 1}}


def test_elements_with_an_id_are_recognised_by_it() -> None:
    old = {"marked": [{"id": "a", "x": 1}, {"id": "b", "x": 2}]}
    new = {"marked": [{"id": "b", "done": True}, {"id": "c", "done": False}]}
    assert kept(new, old) == {"marked": [{"id": "b", "done": True, "x": 2}, {"id": "c", "done": False}]}


def test_an_element_of_another_id_gets_nothing_in_a_list_of_the_same_length_either() -> None:
    old = {"marked": [{"id": "a", "x": 1}, {"id": "b", "x": 2}]}
    new = {"marked": [{"id": "c", "done": False}, {"id": "b", "done": True}]}
    assert kept(new, old) == {"marked": [{"id": "c", "done": False}, {"id": "b", "done": True, "x": 2}]}


def test_elements_without_an_id_are_recognised_by_what_the_model_knows() -> None:
    old = {"steps": [{"name": "a", "x": 1}, {"name": "b", "x": 2}, {"name": "b", "x": 3}]}
    new = {"steps": [{"name": "b"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]}
    assert kept(new, old) == {
        "steps": [{"name": "b", "x": 2}, {"name": "b", "x": 3}, {"name": "c"}, {"name": "d"}]
    }


def test_a_changed_element_is_recognised_by_its_place_in_a_list_of_the_same_length() -> None:
    old = {"steps": [{"name": "a", "x": 1}, {"name": "b", "x": 2}]}
    assert kept({"steps": [{"name": "a"}, {"name": "c"}]}, old) == {
        "steps": [{"name": "a", "x": 1}, {"name": "c", "x": 2}]
    }


def test_an_element_of_a_list_that_became_shorter_gets_nothing_by_its_place() -> None:
    old = {"steps": [{"name": "a", "x": 1}, {"name": "b", "x": 2}]}
    assert kept({"steps": [{"name": "c"}]}, old) == {"steps": [{"name": "c"}]}


def test_elements_are_recognised_however_their_text_was_written() -> None:
    class At(BaseModel):
        at: datetime

    class Log(BaseModel):
        entries: list[At]

    old = {"entries": [{"at": "2024-01-01T10:00:00.000Z", "x": 1}]}
    new = {"entries": [{"at": "2024-01-01T10:00:00Z"}, {"at": "2024-01-01T11:00:00Z"}]}
    assert kept(new, old, Log)["entries"][0] == {"at": "2024-01-01T10:00:00Z", "x": 1}


def test_a_value_of_another_shape_than_the_model_has_is_passed_over() -> None:
    old = {"first": [1], "steps": {"name": "a", "x": 1}, "by_name": None, "marked": [1, None]}
    new = {"first": {"name": "a"}, "steps": [{"name": "a"}], "by_name": {}, "marked": [{"id": "a"}]}
    assert kept(new, old) == new


def test_a_field_is_known_by_each_of_its_aliases() -> None:
    class Aliased(BaseModel):
        a: int = Field(1, validation_alias=AliasChoices("old_a", "older_a"), serialization_alias="A")
        b: int = Field(1, alias="B")

        @computed_field(alias="C")  # type: ignore[prop-decorator]  # as pydantic's manual has it
        @property
        def c(self) -> int:
            return 1

    old = {"a": 1, "old_a": 1, "older_a": 1, "A": 1, "b": 1, "B": 1, "c": 1, "C": 1, "D": 1}
    assert kept({}, old, Aliased) == {"D": 1}


def test_a_field_that_may_hold_several_models_which_nothing_tells_apart_is_left_alone() -> None:
    class Either(BaseModel):
        one: Step | IdStep

    assert kept({"one": {"name": "a"}}, {"one": {"name": "a", "x": 1}}, Either) == {"one": {"name": "a"}}


class Said(BaseModel):
    kind: Literal["said", "thought"] = "said"
    text: str = ""


class Called(BaseModel):
    kind: Literal["called"] = "called"
    tool: str = ""


class Talk(BaseModel):
    turns: list[Annotated[Said | Called, Field(discriminator="kind")]] = []
    last: Said | Called | None = None


def test_one_of_several_models_is_recognised_by_its_literal_fields() -> None:
    old = {
        "turns": [{"kind": "said", "text": "a", "tool": "x"}, {"kind": "called", "tool": "b", "text": "y"}],
        "last": {"kind": "called", "tool": "b", "x": 1},
    }
    new = {
        "turns": [
            {"kind": "said", "text": "new"},
            {"kind": "said", "text": "a"},
            {"kind": "called", "tool": "b"},
        ],
        "last": {"kind": "called", "tool": "c"},
    }
    assert kept(new, old, Talk) == {
        "turns": [new["turns"][0], *old["turns"]],
        "last": {**new["last"], "x": 1},
    }


def test_an_object_that_became_one_of_another_model_gets_nothing() -> None:
    old = {
        "last": {"kind": "called", "tool": "b", "x": 1},
        "turns": [{"kind": "called", "tool": "b", "x": 1}],
    }
    new = {"last": {"kind": "said", "text": "b"}, "turns": [{"kind": "said", "text": "b"}]}
    assert kept(new, old, Talk) == new


def test_an_object_that_may_be_of_no_model_is_left_alone() -> None:
    class Open(BaseModel):
        one: Step | dict[str, Any] = {}
        many: list[Step] | list[dict[str, Any]] = []
        named: dict[str, Annotated[Step, "text"]] | Any = {}

    old = {"one": {"name": 1, "x": 1}, "many": [{"y": 1}], "named": {"k": {"x": 1}}, "x": 1}
    new = {"one": {"name": 2}, "many": [{}], "named": {"k": {}}}
    assert kept(new, old, Open) == {**new, "x": 1}


def test_what_cannot_be_mistaken_for_an_object_of_a_model_may_stand_beside_it() -> None:
    class Beside(BaseModel):
        one: Step | Literal["none"] | Annotated[int, "text"] | list[str] | None = None
        many: list[Step] | dict[str, str] | str = []

    old = {"one": {"name": "a", "x": 1}, "many": [{"name": "a", "x": 2}]}
    new = {"one": {"name": "a"}, "many": [{"name": "a"}]}
    assert kept(new, old, Beside) == old


def test_a_type_that_has_a_name_of_its_own_is_looked_through() -> None:
    class Named(BaseModel):
        steps: Steps

    old = {"steps": [{"name": "a", "x": 1}]}
    assert kept({"steps": [{"name": "a"}]}, old, Named) == old


def test_a_model_may_be_named_before_it_is_defined() -> None:
    assert not Ahead.__pydantic_complete__, "nobody has made a value of it, and a query may be first"
    assert stored_path(Ahead, ("later", "name")) == ("later", "name")
    with pytest.raises(InvalidArgumentError, match="Later has no field 'nam'; did you mean name"):
        stored_path(Ahead, ("later", "nam"))
    assert stored_list(Ahead, "many", b'{"name":"a"}', KEY) == "many"
    old = {"later": {"name": "a", "x": 1}}
    assert kept({"later": {"name": "b"}}, old, Ahead) == {"later": {"name": "b", "x": 1}}


def test_a_new_type_is_looked_through() -> None:
    class Made(BaseModel):
        step: FirstStep

    old = {"step": {"name": "a", "x": 1}}
    assert kept({"step": {"name": "b"}}, old, Made) == {"step": {"name": "b", "x": 1}}


@pytest.mark.parametrize("plain", [UserId, MaybeText, IPv4Address, AnyUrl, SecretStr])
def test_what_is_a_text_or_a_number_may_stand_beside_a_model_by_any_name(plain: Any) -> None:
    made = create_model("Made", step=(Step | plain, ...))
    old = {"step": {"name": "a", "x": 1}}
    assert kept({"step": {"name": "b"}}, old, made) == {"step": {"name": "b", "x": 1}}


def test_any_json_beside_a_model_may_be_an_object_of_its_own() -> None:
    made = create_model("Made", step=(Step | JsonValue, ...))
    new = {"step": {"name": "b"}}
    assert kept(new, {"step": {"name": "a", "x": 1}}, made) == new


class Flat(BaseModel):
    """Writes what it holds beside its id."""

    id: str = "p"
    held: dict[str, int] = {}

    @model_serializer
    def spread(self) -> dict[str, Any]:
        return {"id": self.id, **self.held}

    @model_validator(mode="before")
    @classmethod
    def gather(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"id": data["id"], "held": {name: n for name, n in data.items() if isinstance(n, int)}}


def test_what_a_model_wrote_by_a_serializer_of_its_own_stays_gone_too() -> None:
    old = {"id": "p", "a": 1, "b": 2, "unknown": "text"}
    assert kept({"id": "p", "a": 1}, old, Flat) == {"id": "p", "a": 1, "unknown": "text"}


@pytest.mark.parametrize("module", [elements, rereading, schema, scope, unknown])
def test_models_that_are_made_for_a_moment_are_not_all_kept_for_good(module: Any) -> None:
    limits = [
        found.cache_parameters() for found in vars(module).values() if hasattr(found, "cache_parameters")
    ]
    assert limits
    assert all(limit["maxsize"] for limit in limits)


def test_a_document_takes_no_more_memory_than_it_has_bytes() -> None:
    tracemalloc.start()
    try:
        data = encode_mapping({"id": "a", "text": "x" * 100_000}, key="raw/a")
        assert tracemalloc.get_traced_memory()[0] < 1.1 * len(data)
    finally:
        tracemalloc.stop()
