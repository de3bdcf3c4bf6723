"""Models that do not read again what they write: they are refused where they are stored."""

from base64 import b64decode, urlsafe_b64decode
from typing import Annotated, Any, Generic, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema
from pydantic_core.core_schema import plain_serializer_function_ser_schema, with_info_plain_validator_function
from statepath.engine.documents import encode_model
from statepath.engine.elements import stored_list
from statepath.engine.rereading import loss_of
from statepath.engine.schema import shape_of, types_in
from statepath.errors import InvalidArgumentError
from typing_extensions import TypeAliasType

T = TypeVar("T")
Shown = Annotated[
    SecretStr, PlainSerializer(lambda value: value.get_secret_value(), when_used="json-unless-none")
]


class Schema:
    """Shows a secret, as a class of its own or as a mark."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        show = plain_serializer_function_ser_schema(lambda value: value.get_secret_value())
        return with_info_plain_validator_function(
            lambda value, info: value if isinstance(value, SecretStr) else SecretStr(value),
            serialization=show,
        )


class OwnSecret(Schema, SecretStr):
    pass


Key = TypeAliasType("Key", SecretStr)


class Renamed(BaseModel):
    name: str = Field("", validation_alias="taskName")


class Box(BaseModel, Generic[T]):
    content: T


def model(kind: Any, default: Any = ..., **config: Any) -> type[BaseModel]:
    return create_model("Made", __config__=ConfigDict(**config), id=(str, "1"), field=(kind, default))


@pytest.mark.parametrize(
    ("alias", "read"),
    [
        ({"validation_alias": "taskName"}, "'taskName'"),
        ({"serialization_alias": "taskName"}, "'field'"),
        ({"validation_alias": AliasChoices("a", "b")}, "'a' or 'b'"),
        ({"validation_alias": AliasPath("a", 0)}, "a part of something else"),
    ],
    ids=str,
)
def test_a_field_that_is_written_under_a_name_by_which_it_is_not_read_is_told(alias: Any, read: str) -> None:
    loss = loss_of(model(str, Field("", **alias)))
    assert loss is not None
    assert loss.cause.endswith(f"and reads it as {read}, so it would be lost")


@pytest.mark.parametrize(
    "made",
    [
        model(str, Field(alias="taskName")),
        model(str, Field(validation_alias=AliasChoices("old", "field"))),
        model(str, Field(validation_alias=AliasChoices("old", "new"), serialization_alias="new")),
        model(str, Field(validation_alias="taskName"), populate_by_name=True),
        model(str, alias_generator=to_camel),
        model(str, Field("", exclude=True)),
    ],
)
def test_a_field_that_is_read_as_it_is_written_or_meant_to_be_left_out_is_no_loss(
    made: type[BaseModel],
) -> None:
    assert loss_of(made) is None


def test_a_field_that_is_left_out_needs_a_default() -> None:
    loss = loss_of(model(str, Field(exclude=True)))
    assert loss is not None
    assert "leaves out its field 'field'" in loss.cause


@pytest.mark.parametrize(("read", "lost"), [("utf8", True), ("base64", False)])
def test_bytes_are_read_as_they_are_written(read: Any, lost: bool) -> None:
    made = model(bytes | None, None, ser_json_bytes="base64", val_json_bytes=read)
    assert (loss_of(made) is not None) is lost
    assert loss_of(model(str, ser_json_bytes="base64", val_json_bytes=read)) is None


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[bytes, PlainSerializer(bytes.hex), BeforeValidator(bytes.fromhex)],
        Annotated[bytes, BeforeValidator(b64decode)],
        list[Annotated[bytes, PlainSerializer(bytes.decode)]],
        Annotated[bytes, Field(exclude=True)],
    ],
)
def test_a_field_may_say_how_its_bytes_are_written_or_read(kind: Any) -> None:
    assert loss_of(model(kind, b"", ser_json_bytes="base64")) is None


def test_a_validator_before_may_read_bytes_as_they_are_written() -> None:
    class Image(BaseModel):
        model_config = ConfigDict(ser_json_bytes="base64")
        data: bytes

        @field_validator("data", mode="before")
        @classmethod
        def take(cls, data: Any) -> Any:
            return urlsafe_b64decode(data) if isinstance(data, str) else data

    assert Image.model_validate_json(encode_model(Image(data=b"\xff"), key="a/1")).data == b"\xff"


@pytest.mark.parametrize("kind", [SecretStr, SecretBytes | None, list[Secret[int]], dict[str, SecretStr]])
def test_a_secret_would_be_stored_as_asterisks(kind: Any) -> None:
    loss = loss_of(model(kind))
    assert loss is not None
    assert "writes asterisks for its field 'field'" in loss.cause


@pytest.mark.parametrize(
    "kind",
    [
        Shown,
        Shown | None,
        list[Shown],
        OwnSecret,
        Annotated[SecretStr, Schema],
        list[Annotated[SecretStr, Schema]],
    ],
)
def test_a_secret_may_say_how_it_is_written(kind: Any) -> None:
    assert loss_of(model(kind)) is None


def test_a_secret_with_a_name_of_its_own_is_one() -> None:
    assert loss_of(model(Key)) is not None


def test_a_field_serializer_says_how_a_secret_is_written() -> None:
    class Account(BaseModel):
        key: SecretStr

        @field_serializer("key", when_used="json")
        def show(self, key: SecretStr) -> str:
            return key.get_secret_value()

    assert loss_of(Account) is None


def test_a_model_may_have_its_own_way_to_be_read() -> None:
    class Own(BaseModel):
        name: str = Field(validation_alias="taskName")

        @model_validator(mode="before")
        @classmethod
        def take(cls, data: Any) -> Any:
            return {"taskName": data["name"]}

    assert loss_of(Own) is None


@pytest.mark.parametrize(
    "kind", [Renamed, Renamed | None, list[Renamed | int], dict[str, tuple[Renamed, ...]], Box[Renamed]]
)
def test_models_in_a_model_are_looked_at_too(kind: Any) -> None:
    assert loss_of(model(kind)) == loss_of(Renamed) != None  # noqa: E711 - one chain


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[Renamed, Field(exclude=True)],
        Annotated[Renamed, PlainSerializer(lambda value: {"taskName": value.name})],
        list[Annotated[Renamed, PlainSerializer(lambda value: {"taskName": value.name})]],
    ],
)
def test_models_that_are_left_out_or_written_otherwise_are_not_looked_at(kind: Any) -> None:
    assert loss_of(model(kind, Renamed.model_validate({}))) is None


def test_a_model_that_writes_itself_writes_those_in_it() -> None:
    class ByField(BaseModel):
        held: Renamed

        @field_serializer("held")
        def show(self, held: Renamed) -> Any:
            return {"taskName": held.name}

    class Whole(BaseModel):
        held: Renamed

        @model_serializer
        def show(self) -> Any:
            return {"held": {"taskName": self.held.name}}

    assert loss_of(ByField) is loss_of(Whole) is None


def test_a_type_that_contains_itself_by_its_name_has_an_end() -> None:
    class Alias:
        __value__: Any

    tree = Alias()
    tree.__value__ = dict[str, tree] | Renamed  # type: ignore[valid-type]  # as `type tree = …` makes it
    assert Renamed in types_in(tree)
    assert shape_of(tree) is None


def test_such_a_model_is_not_stored() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"tasks/1: Renamed writes its field 'name' as 'name'.*; give it"
    ):
        encode_model(Renamed.model_validate({}), key="tasks/1")


def test_nothing_is_appended_to_a_document_of_such_a_model() -> None:
    with pytest.raises(InvalidArgumentError, match="tasks/1: Renamed writes"):
        stored_list(model(list[Renamed]), "field", b"{}", "tasks/1")
