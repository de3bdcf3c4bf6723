"""What pydantic would write without what a subclass adds: it is refused where it is stored."""

import json
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    PlainSerializer,
    RootModel,
    SerializeAsAny,
    SkipValidation,
    create_model,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema
from pydantic_core.core_schema import model_schema, no_info_plain_validator_function
from statepath.engine.documents import encode_model, encode_value
from statepath.engine.narrowing import look_of
from statepath.errors import InvalidArgumentError
from typing_extensions import TypedDict

T = TypeVar("T")


class Place(BaseModel):
    name: str = "eu"


class Region(Place):
    zone: int = 1


class Shouting(Place):
    def shout(self) -> str:
        return self.name.upper()


class Open(Place):
    model_config = ConfigDict(extra="allow")


@dataclass
class Point:
    x: int = 0


@dataclass
class Point3(Point):
    z: int = 3


@pydantic_dataclass
class Visit:
    place: Place


@dataclass(slots=True)
class Slot:
    x: int = 0


@dataclass(slots=True)
class WideSlot(Slot):
    z: int = 3


class Members(TypedDict):
    place: Place


class Named(NamedTuple):
    number: int
    place: Place


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    place: Place = Place()
    below: list["Tree"] = []


class Kept(BaseModel):
    model_config = ConfigDict(extra="allow")


class OpenMembers(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    name: str


class OwnWay(Place):
    zone: int = 1

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"name": self.name, "zone": self.zone}


class Polymorphic(BaseModel):
    model_config = ConfigDict(polymorphic_serialization=True)
    name: str = "eu"


class PolymorphicRegion(Polymorphic):
    zone: int = 1
    place: Place = Place()


class Unrelated(BaseModel):
    name: str = "eu"
    zone: int = 1


Written = Annotated[Region, PlainSerializer(lambda region: {"name": region.name, "zone": region.zone})]


def written(kind: Any, value: object) -> Any:
    """What is stored of the value in a field of that type."""
    model = create_model("Made", __config__=ConfigDict(arbitrary_types_allowed=True), field=(kind, ...))
    return json.loads(encode_model(model.model_construct(field=value), key="made/1"))["field"]


@pytest.mark.parametrize(
    ("kind", "value", "place"),
    [
        (Place, Region(), "field"),
        (Place | None, Region(), "field"),
        (Place | Point, Region(), "field"),
        (list[Place], [Place(), Region()], "field[1]"),
        (Sequence[Place], (Region(),), "field[0]"),
        (deque[Place], deque([Region()]), "field[0]"),
        (tuple[int, Place], (1, Region()), "field[1]"),
        (tuple[Place, ...], (Place(), Region()), "field[1]"),
        (dict[str, Place], {"a": Region()}, "field.a"),
        (Mapping[str, list[Place]], {"a": [Region()]}, "field.a[0]"),
        (Members, {"place": Region()}, "field.place"),
        (Box[Place], Box[Place].model_construct(content=Region()), "field.content"),
        (RootModel[list[Place]], RootModel[list[Place]]([Region()]), "field.root[0]"),
        (Visit, Visit(Region()), "field.place"),
        (Tree, Tree(below=[Tree(), Tree(place=Region())]), "field.below[1].place"),
        (Any, {"a": [Tree(place=Region())]}, "field.a[0].place"),
        (Any, Visit(Region()), "field.place"),
        (Kept, Kept.model_validate({"more": Tree(place=Region())}), "field.more.place"),
        (OpenMembers, {"name": "eu", "more": Tree(place=Region())}, "field.more.place"),
        (OrderedDict[str, Place], OrderedDict(a=Region()), "field.a"),
        (defaultdict[str, list[Place]], defaultdict(list, a=[Region()]), "field.a[0]"),
        (SkipValidation[Place], Region(), "field"),
        (Place | int, Region(), "field"),
        (list[Place] | list[Region], [Place(), Region()], "field[1]"),
        (list[Region] | list[Place], [Place(), Region()], "field[1]"),
        (list[Place] | tuple[Region, ...], [Region()], "field[0]"),
        (Box[Place], Box[Region](content=Region()), "field.content"),
        (list[Box[Place]], [Box[Any](content=Region())], "field[0].content"),
        (Polymorphic, PolymorphicRegion(place=Region()), "field.place"),
    ],
    ids=str,
)
def test_a_value_of_a_subclass_with_fields_of_its_own_is_refused_by_its_place(
    kind: Any, value: object, place: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="would be written as Place, without 'zone'") as refused:
        written(kind, value)
    assert f"the field {place!r} holds a Region" in str(refused.value)


def test_a_named_tuple_is_written_whole_or_refused() -> None:
    """Before pydantic 2.14 it is written by what it holds."""
    try:
        stored = written(Named, Named(1, Region()))
    except InvalidArgumentError as refused:
        assert "the field 'field[1]' holds a Region" in str(refused)  # noqa: PT017 - or it is not refused
    else:
        assert stored == [1, {"name": "eu", "zone": 1}]


@pytest.mark.parametrize(("kind", "value"), [(Point, Point3()), (Slot, WideSlot())])
def test_a_dataclass_is_treated_alike(kind: Any, value: object) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"without 'z'; declare it as \w+ \| \w+, or as SerializeAsAny"
    ):
        written(kind, value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Place | Region, Region()),
        (list[Place] | list[Region], [Region()]),
        (list[Place | Region], [Place(), Region()]),
        (SerializeAsAny[Place], Region()),
        (Box[Any], Box[Any](content=Region())),
        (Box, Box(content=Region())),
        (Any, [Region()]),
        (Any, Point3()),
        (Place, Shouting()),
        (Place, Open()),
        (Place | OwnWay, OwnWay()),
        pytest.param(Place | Written, Region(), id="a serializer of its own"),
        (Polymorphic, PolymorphicRegion()),
        (list[Place] | list[Any], [Region()]),
        (list[Place | str], ["eu"]),
    ],
    ids=str,
)
def test_a_value_that_is_written_whole_is_stored(kind: Any, value: object) -> None:
    assert written(kind, value) == json.loads(encode_value_of(value))


def encode_value_of(value: object) -> bytes:
    return encode_model(create_model("Any", field=(Any, ...))(field=value), key="any")[len('{"field":') : -1]


def test_what_a_subclass_holds_beside_its_fields_counts_as_its_own() -> None:
    with pytest.raises(
        InvalidArgumentError, match="holds a Open and would be written as Place, without 'more'"
    ):
        written(Place, Open.model_validate({"more": 1}))


def test_a_value_of_an_unrelated_class_is_refused_where_something_of_it_would_not_be_written() -> None:
    with pytest.raises(
        InvalidArgumentError, match="holds a Unrelated and would be written as Place, without 'zone'"
    ):
        written(Place, Unrelated())


def test_a_field_that_a_subclass_never_writes_is_not_missed() -> None:
    class Cached(Place):
        cache: int = Field(0, exclude=True)

    assert written(Place, Cached(cache=1)) == {"name": "eu"}


def test_a_field_of_json_values_needs_no_look() -> None:
    assert look_of(create_model("Task", result=(dict[str, JsonValue] | None, None))) is None
    assert look_of(create_model("Task", result=(dict[str, Any] | None, None))) is not None


def test_a_serializer_of_the_models_own_writes_what_it_will() -> None:
    class Own(BaseModel):
        place: Place

        @field_serializer("place")
        def short(self, place: Place) -> str:
            return place.name

    assert encode_model(Own(place=Region()), key="own/1") == b'{"place":"eu"}'


def test_a_class_that_says_itself_how_it_is_read_and_written_is_left_to_it() -> None:
    class Own(Place):
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            return model_schema(
                cls, no_info_plain_validator_function(lambda value: (value, None, set(value)))
            )

    class Wider(Own):
        zone: int = 1

    assert written(Own, Wider.model_validate({"name": "eu", "zone": 2})) == {"name": "eu", "zone": 2}


def test_an_element_and_a_report_are_looked_through_like_a_document() -> None:
    with pytest.raises(InvalidArgumentError, match="reports/r: the field 'place' holds a Region"):
        encode_value(Tree(place=Region()), key="reports/r")
