"""The seed's documents as pydantic models: what is read is written again, whole.

Fields that a model does not know are kept, and one that was never given is not written as null, so a document of
the original that passes through its model comes out equal. Timestamps stay the ISO 8601 text that they were: a `Z` or a
missing millisecond is not ours to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, Strict, model_validator
from pydantic_core import to_jsonable_python


def iso(moment: datetime) -> str:
    """A moment in the form of the seed's timestamps: UTC with milliseconds, `2024-01-01T10:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def iso_now() -> str:
    """The present in the form of the seed's timestamps: UTC with milliseconds, `2024-01-01T10:00:00.000Z`."""
    return iso(datetime.now(UTC))


def moment(text: object) -> datetime | None:
    """The moment that an ISO 8601 text names, in UTC where it does not say; `None` if it names none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _whole(value: Any) -> Any:
    return to_jsonable_python(value, by_alias=True, round_trip=True)


Json = Annotated[Any, PlainSerializer(_whole, when_used="json-unless-none")]
"""Any JSON value. A model in it is written whole: what is left out of ours is no rule for others'."""


Text = Annotated[str, Strict()]
"""A `str`: pydantic would also decode bytes, which JSON does not have."""


class Model(BaseModel):
    """The base of the seed's models: unknown fields are kept, and what is unset and `None` is not written."""

    model_config = ConfigDict(extra="allow")
    # pydantic's own way to type what is extra; without the Field, type checkers take it for an argument.
    __pydantic_extra__: dict[str, Json] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    __omit_unset__: ClassVar[bool] = True

    def model_post_init(self, context: Any, /) -> None:
        # `exclude_unset` would also leave out a list that was filled after it came from the default.
        self.model_fields_set.update(name for name, value in self.__dict__.items() if value is not None)

    def model_dump(self, *, exclude_unset: bool = True, **options: Any) -> dict[str, Any]:
        """As pydantic's, without the fields that were never given and are `None`."""
        return super().model_dump(exclude_unset=exclude_unset, **options)

    def model_dump_json(self, *, exclude_unset: bool = True, **options: Any) -> str:
        """As pydantic's, without the fields that were never given and are `None`."""
        return super().model_dump_json(exclude_unset=exclude_unset, **options)


class TaskLogEntry(Model):
    """One line of a task's log.

    Attributes:
        timestamp: when, ISO 8601.
        level: `info`, `warning`, `error`, …
        type: who speaks: `system`, `agent`, `tool`, …
        metadata: anything more that belongs to it.
    """

    timestamp: Text | None = None
    level: Text = "info"
    type: Text = "system"
    message: Text = ""
    metadata: Json = None


class Task(Model):
    """A piece of work for an agent; the document `tasks/<id>`.

    Attributes:
        id: names the task within the store.
        status: `pending`, `waiting`, `in_progress`, `completed`, `failed`, `cancelled`, or a word of yours.
        tool: the agent or program that does it.
        updated_at: ISO 8601; `StatePersistence.save_state` skips what is older by it than the stored task.
        result: what came out, any JSON value.
        error: why it failed, any JSON value.
    """

    id: Text
    description: Text = ""
    status: Text = "pending"
    tool: Text | None = None
    created_at: Text | None = None
    updated_at: Text | None = None
    started_at: Text | None = None
    completed_at: Text | None = None
    logs: list[TaskLogEntry] = Field(default_factory=list)
    result: Json = None
    error: Json = None


class SessionInfo(Model):
    """An agent's session; the document `sessions/<id>`. Where only a `session_id` is given, that is the id.

    Attributes:
        id: names the session within the store.
        type: the kind of agent.
        status: `active`, `busy`, `terminated`, or another word of yours.
        task_id: the task it works on.
    """

    id: Text
    type: Text | None = None
    status: Text | None = None
    created_at: Text | None = None
    updated_at: Text | None = None
    task_id: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_session_id(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "id" not in data and "session_id" in data:
            return {"id": data["session_id"], **data}
        return data


class StateMetrics(Model):
    """Counts over all tasks.

    Attributes:
        average_completion_time: milliseconds from `created_at` to `completed_at`, over the completed tasks; 0
            without any.
    """

    total_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    average_completion_time: int | float = 0


class PersistedState(Model):
    """The complete application state, as `state.json` holds it.

    Attributes:
        last_saved: when it was saved, ISO 8601.
        version: of the format, as the file says.
    """

    tasks: list[Task] = Field(default_factory=list)
    sessions: list[SessionInfo] = Field(default_factory=list)
    metrics: StateMetrics = Field(default_factory=StateMetrics)
    last_saved: Text | None = None
    version: Text | int | None = None
