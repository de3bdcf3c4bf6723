"""Collections: documents of one kind, as pydantic models or plain dicts."""

from datetime import UTC, datetime

import pytest
import statepath
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny
from statepath import StatePersistence
from statepath.errors import AlreadyExistsError, ConflictError, InvalidArgumentError


class Task(BaseModel):
    id: str
    status: str = "pending"
    tags: list[str] = []


class Session(BaseModel):
    session_id: str
    user: str = ""


async def test_a_model_that_was_put_is_got_back_equal(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="task_1", status="failed", tags=["a"]))
    assert await tasks.get("task_1") == Task(id="task_1", status="failed", tags=["a"])


async def test_without_a_model_documents_are_dicts(store):
    anything = store.collection("anything")
    document = {"id": "x", "nested": {"list": [1, 2.5, None, True, "é"]}}
    await anything.put(document)
    assert await anything.get("x") == document


async def test_a_missing_document_is_none(store):
    tasks = store.collection("tasks", Task)
    assert await tasks.get("nobody") is None
    assert await tasks.get_document("nobody") is None


async def test_each_put_returns_the_next_seq(store):
    tasks = store.collection("tasks", Task)
    assert [await tasks.put(Task(id=id)) for id in ("a", "b", "a")] == [1, 2, 3]
    assert store.seq == 3


async def test_put_replaces_whatever_is_stored(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a", status="failed", tags=["x"]))
    await tasks.put(Task(id="a"))
    assert await tasks.get("a") == Task(id="a")


async def test_get_always_gives_a_fresh_object(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a"))
    first = await tasks.get("a")
    first.tags.append("only mine")
    first.status = "changed"
    assert await tasks.get("a") == Task(id="a")


async def test_changing_the_object_after_put_changes_nothing_stored(store):
    raw = store.collection("raw")
    document = {"id": "a", "list": [1]}
    await raw.put(document)
    document["list"].append(2)
    assert await raw.get("a") == {"id": "a", "list": [1]}


async def test_a_document_knows_its_version_and_when_it_was_changed(store):
    tasks = store.collection("tasks", Task)
    before = datetime.now(UTC)
    await tasks.put(Task(id="other"))
    seq = await tasks.put(Task(id="a"))
    document = await tasks.get_document("a")
    assert (document.id, document.value, document.version) == ("a", Task(id="a"), seq)
    assert before <= document.modified <= datetime.now(UTC)


async def test_two_collections_hold_the_same_id_apart(store):
    await store.collection("tasks").put({"id": "a", "of": "tasks"})
    await store.collection("plans").put({"id": "a", "of": "plans"})
    assert (await store.collection("tasks").get("a"))["of"] == "tasks"
    assert store.collections() == ("plans", "tasks")


async def test_the_id_may_be_another_field(store):
    sessions = store.collection("sessions", Session, id="session_id")
    await sessions.put(Session(session_id="s1", user="ann"))
    assert (await sessions.get("s1")).user == "ann"


async def test_the_same_documents_can_be_read_with_a_model_and_without(store):
    await store.collection("tasks", Task).put(Task(id="a"))
    assert await store.collection("tasks").get("a") == {"id": "a", "status": "pending", "tags": []}


async def test_fields_that_the_model_does_not_know_survive_a_put(store):
    await store.collection("tasks").put({"id": "a", "status": "new", "added_later": {"by": "v2"}})
    tasks = store.collection("tasks", Task)
    task = await tasks.get("a")
    await tasks.put(task.model_copy(update={"status": "done"}))
    stored = await store.collection("tasks").get("a")
    assert stored == {"id": "a", "status": "done", "tags": [], "added_later": {"by": "v2"}}


async def test_what_a_subclass_added_survives_a_put_of_its_base(store):
    class Deployment(Task):
        region: str

    tasks = store.collection("tasks", Task)
    await tasks.put(Deployment(id="a", region="eu"))
    await tasks.put(Task(id="a", status="done"))
    stored = await store.collection("tasks").get("a")
    assert stored == {"id": "a", "status": "done", "tags": [], "region": "eu"}


async def test_what_a_subclass_in_a_field_added_survives_a_put_of_its_base(store):
    class Place(BaseModel):
        name: str

    class Region(Place):
        zone: int

    class Deployment(BaseModel):
        id: str
        places: list[SerializeAsAny[Place]]

    deployments = store.collection("deployments", Deployment)
    await deployments.put(Deployment(id="a", places=[Region(name="eu", zone=1)]))
    await deployments.put(await deployments.get("a"))
    stored = await store.collection("deployments").get("a")
    assert stored == {"id": "a", "places": [{"name": "eu", "zone": 1}]}


async def test_what_a_model_that_is_written_by_its_subclass_adds_is_not_lost_when_it_is_put_again(store):
    class Place(BaseModel):
        model_config = ConfigDict(polymorphic_serialization=True)
        name: str

    class Region(Place):
        zone: int

    class Deployment(BaseModel):
        id: str
        place: Place

    deployments = store.collection("deployments", Deployment)
    await deployments.put(Deployment(id="a", place=Region(name="eu", zone=1)))
    await deployments.put(await deployments.get("a"))
    assert await store.collection("deployments").get("a") == {"id": "a", "place": {"name": "eu", "zone": 1}}


async def test_a_model_that_allows_extra_fields_decides_itself_what_is_kept(store):
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        id: str

    await store.collection("tasks").put({"id": "a", "extra": 1})
    await store.collection("tasks", Open).put(Open(id="a"))
    assert await store.collection("tasks").get("a") == {"id": "a"}


async def test_a_model_in_one_that_allows_extra_fields_keeps_what_it_does_not_know(store):
    class Inner(BaseModel):
        done: bool = False

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        id: str
        inner: Inner = Inner()

    raw, documents = store.collection("documents"), store.collection("documents", Open)
    await raw.put({"id": "a", "inner": {"done": False, "by": "somebody"}, "colour": "red"})
    await documents.put((await documents.get("a")).model_copy(update={"inner": Inner(done=True)}))
    assert await raw.get("a") == {"id": "a", "inner": {"done": True, "by": "somebody"}, "colour": "red"}


async def test_a_model_with_aliases_is_stored_by_alias_and_read_back(store):
    class Aliased(BaseModel):
        id: str
        kind: str = Field(alias="type")

    await store.collection("things", Aliased).put(Aliased(id="a", type="x"))
    assert await store.collection("things").get("a") == {"id": "a", "type": "x"}
    assert (await store.collection("things", Aliased).get("a")).kind == "x"


async def test_a_stored_document_that_does_not_fit_the_model_names_the_field(store):
    await store.collection("tasks").put({"id": "a", "tags": "not a list"})
    with pytest.raises(InvalidArgumentError, match=r"tasks/a.*tags") as caught:
        await store.collection("tasks", Task).get("a")
    assert (caught.value.code, caught.value.key) == ("model_mismatch", "tasks/a")


async def test_create_refuses_an_id_that_exists(store):
    tasks = store.collection("tasks", Task)
    await tasks.create(Task(id="a", status="first"))
    with pytest.raises(AlreadyExistsError) as caught:
        await tasks.create(Task(id="a", status="second"))
    assert caught.value.key == "tasks/a"
    assert (await tasks.get("a")).status == "first"


async def test_create_works_again_after_a_delete(store):
    tasks = store.collection("tasks", Task)
    await tasks.create(Task(id="a"))
    await tasks.delete("a")
    await tasks.create(Task(id="a", status="again"))
    assert (await tasks.get("a")).status == "again"


async def test_delete_says_whether_there_was_one(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a"))
    assert await tasks.delete("a") is True
    assert await tasks.get("a") is None
    assert await tasks.delete("a") is False


async def test_deleting_nothing_takes_no_seq(store):
    tasks = store.collection("tasks", Task)
    await tasks.delete("nobody")
    assert store.seq == 0


async def test_a_collection_without_documents_does_not_exist(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a"))
    await tasks.delete("a")
    assert store.collections() == ()


async def test_count_and_iteration_see_every_document(store):
    tasks = store.collection("tasks", Task)
    for id in ("b", "a", "c"):
        await tasks.put(Task(id=id))
    assert await tasks.count() == 3
    assert sorted([task.id async for task in tasks]) == ["a", "b", "c"]


async def test_any_text_is_an_id_and_ids_never_meet(store):
    raw = store.collection("raw")
    ids = ["x", "../../etc/passwd", "CON", "a/b", ".", "Ä😀", " x ", "%2F", "x" * 200]
    for count, id in enumerate(ids, start=1):
        await raw.put({"id": id})
        assert await raw.get(id) == {"id": id}
        assert await raw.count() == count


async def test_what_is_no_id_is_refused(store):
    raw = store.collection("raw")
    for id in ("", "x" * 201, "a\0b", "a\nb", "\ud800", 7, None, b"a"):
        with pytest.raises(InvalidArgumentError):
            await raw.put({"id": id})
        with pytest.raises(InvalidArgumentError):
            await raw.get(id)
        with pytest.raises(InvalidArgumentError):
            await raw.delete(id)
    assert store.seq == 0


async def test_what_is_no_collection_name_is_refused(store):
    for name in ("", "Tasks", "1st", "a-b", "a/b", "_state", "metrics", "journal", "logs"):
        with pytest.raises(InvalidArgumentError):
            store.collection(name)


NO_DOCUMENTS = [
    {"id": "a", "x": float("nan")},
    {"id": "a", "x": float("inf")},
    {"id": "a", "x": {1, 2}},
    {"id": "a", "x": b"bytes"},
    {"id": "a", "x": "\ud800"},
    {"id": "a", 1: "key"},
    {"x": "without an id"},
    ["a"],
    None,
]


async def test_what_is_no_document_is_refused_and_changes_nothing(store):
    raw = store.collection("raw")
    for document in NO_DOCUMENTS:
        with pytest.raises(InvalidArgumentError):
            await raw.put(document)
    assert store.seq == 0


async def test_a_document_that_is_too_deep_is_refused(store):
    deep: dict = {}
    for _ in range(101):
        deep = {"x": deep}
    with pytest.raises(InvalidArgumentError, match="deep"):
        await store.collection("raw").put({"id": "a", "x": deep})


async def test_a_document_that_is_too_large_is_refused(url):
    async with statepath.open(url, max_document=1024) as store:
        raw = store.collection("raw")
        with pytest.raises(InvalidArgumentError, match="1,024"):
            await raw.put({"id": "a", "x": "y" * 1024})
        await raw.put({"id": "a", "x": "y" * 900})


async def test_a_collection_takes_its_own_model_only(store):
    tasks = store.collection("tasks", Task)
    with pytest.raises(InvalidArgumentError, match="holds Task, not Session"):
        await tasks.put(Session(session_id="s"))
    with pytest.raises(InvalidArgumentError, match="holds Task, not dict"):
        await tasks.put({"id": "a"})


async def test_a_model_without_the_id_field_is_refused_at_once(store):
    with pytest.raises(InvalidArgumentError, match="name the field with id="):
        store.collection("sessions", Session)


async def test_what_is_no_model_is_refused_at_once(store):
    with pytest.raises(InvalidArgumentError, match="not a pydantic model"):
        store.collection("tasks", dict)


async def test_if_version_accepts_the_version_that_was_read(store):
    tasks = store.collection("tasks", Task)
    seq = await tasks.put(Task(id="a"))
    later = await tasks.put(Task(id="a", status="done"), if_version=seq)
    assert await tasks.delete("a", if_version=later) is True


async def test_if_version_zero_means_that_there_must_be_none(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a"), if_version=0)
    with pytest.raises(ConflictError):
        await tasks.put(Task(id="a"), if_version=0)


async def test_a_conflict_says_what_was_met_and_changes_nothing(store):
    tasks = store.collection("tasks", Task)
    base = await tasks.put(Task(id="a", status="one"))
    current = await tasks.put(Task(id="a", status="two"))
    with pytest.raises(ConflictError) as caught:
        await tasks.put(Task(id="a", status="mine"), if_version=base)
    conflict = caught.value
    assert (conflict.key, conflict.base, conflict.current) == ("tasks/a", base, current)
    assert (conflict.theirs["status"], conflict.ours["status"]) == ("two", "mine")
    assert (await tasks.get("a")).status == "two"


async def test_a_delete_of_another_version_is_a_conflict(store):
    tasks = store.collection("tasks", Task)
    base = await tasks.put(Task(id="a"))
    await tasks.put(Task(id="a"))
    with pytest.raises(ConflictError):
        await tasks.delete("a", if_version=base)
    assert await tasks.get("a") is not None


async def test_a_delete_of_a_version_that_is_gone_is_a_conflict(store):
    tasks = store.collection("tasks", Task)
    base = await tasks.put(Task(id="a"))
    await tasks.delete("a")
    with pytest.raises(ConflictError) as caught:
        await tasks.delete("a", if_version=base)
    assert caught.value.current == 0
    assert caught.value.theirs is None


async def test_a_version_that_is_no_whole_number_is_refused_and_what_follows_is_kept(store, url):
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    versions = [True, False, 0.0, 1.0, "1", -1]
    for version in versions:
        with pytest.raises(InvalidArgumentError, match="a version is a whole number"):
            await raw.put({"id": "a"}, if_version=version)
        with pytest.raises(InvalidArgumentError, match="a version is a whole number"):
            await raw.delete("a", if_version=version)
        await raw.put({"id": repr(version)})
    async with statepath.open(url, readonly=True) as reader:
        found = {document["id"] async for document in reader.collection("raw")}
    assert found == {"a", *map(repr, versions)}


async def test_a_member_of_the_name_that_a_documents_file_has_for_its_own_is_refused(store):
    class Marked(BaseModel):
        id: str
        mark: int = Field(default=1, alias="_statepath")

    raw, marked = store.collection("raw"), store.collection("marked", Marked)
    await raw.put({"id": "a", "nested": {"_statepath": 1}, "text": '"_statepath":'})
    with pytest.raises(InvalidArgumentError, match=r"raw/a: the member '_statepath' .*rename"):
        await raw.put({"id": "a", "_statepath": 1})
    with pytest.raises(InvalidArgumentError, match="raw/b"):
        await raw.create({"id": "b", "_statepath": 1})
    with pytest.raises(InvalidArgumentError, match="marked/a"):
        await marked.put(Marked(id="a"))
    with pytest.raises(InvalidArgumentError, match="'_statepath'"):
        await raw.append("a", "_statepath", 1)
    async with store.transaction() as tx:
        with pytest.raises(InvalidArgumentError, match="raw/a"):
            tx.put(raw, {"id": "a", "_statepath": 1})
    with pytest.raises(InvalidArgumentError, match="tasks/a"):
        await StatePersistence(store).save_task({"id": "a", "_statepath": 1})
    assert store.seq == 1


async def test_a_document_grows_by_appending_up_to_the_limit(url):
    async with statepath.open(url, max_document=1024) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "lines": ["x" * 940]})
        await raw.append("a", "lines", "x" * 40)
        with pytest.raises(InvalidArgumentError, match=r"raw/a: it has .* bytes, and the limit is 1,024"):
            await raw.append("a", "lines", "x" * 40)
        kept = await raw.get("a")
        assert len(kept["lines"]) == 2
        await raw.put(kept)
