"""Session logs and reports: files that the log orders but does not keep."""

import asyncio
from contextlib import suppress

import pytest
import statepath
from msgspec.structs import replace
from pydantic import BaseModel
from statepath.backend import slot_key
from statepath.commit import encode_commit
from statepath.engine import unwritten as unwritten_files
from statepath.errors import (
    CorruptionError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)


async def test_a_log_grows_at_its_end(store):
    await store.append_log("s1", "one\n")
    seq = await store.append_log("s1", "two é\n")
    assert seq == store.seq == 2
    assert await store.read_log("s1") == "one\ntwo é\n"


async def test_concurrent_pieces_all_arrive_whole(store):
    await asyncio.gather(*(store.append_log("s1", f"line {n}\n") for n in range(50)))
    assert await store.read_log("s1") == "".join(f"line {n}\n" for n in range(50))


async def test_a_long_piece_stays_in_one_piece_beside_another_writer(store):
    long, short = "é" * 1_500_000, "short\n"
    await asyncio.gather(store.append_log("s1", long), store.append_log("s1", short))
    assert await store.read_log("s1") == long + short


async def test_a_log_goes_on_after_reopening(store, url):
    await store.append_log("s1", "one\n")
    await store.aclose()
    async with statepath.open(url) as again:
        await again.append_log("s1", "two\n")
        assert await again.read_log("s1") == "one\ntwo\n"


async def test_what_the_file_lacks_after_a_crash_is_written_again(store, url, memory, keys):
    await store.append_log("s1", "one\n")
    await store.save_report("r1", {"n": 1})
    await store.flush()
    for key in (*await keys("logs/"), *await keys("reports/")):
        await memory.delete(key)
    async with statepath.open(url) as again:
        assert await again.read_log("s1") == "one\n"
        assert await again.read_report("r1") == {"n": 1}


async def test_what_another_tool_has_put_into_the_folder_of_a_log_is_no_part_of_it(
    store, url, other_url, memory, keys
):
    others = {f"logs/session_s1.log/{name}" for name in ("", "notes.txt", "12")}
    for key in others:
        await memory.write(key, b"a person's")
    await store.append_log("s1", "one\n")
    await store.append_log("s1", "two\n")
    await store.snapshot()
    assert await store.read_log("s1") == "one\ntwo\n"
    assert await store.verify() == []
    await statepath.copy(url, other_url)
    async with statepath.open(other_url, readonly=True) as copied:
        assert await copied.read_log("s1") == "one\ntwo\n"
    await store.delete_log("s1")
    assert set(await keys("logs/")) == others


async def test_what_a_writer_left_of_a_log_that_was_removed_is_not_taken_for_what_is_appended_now(
    store, memory
):
    await memory.write(f"logs/session_s1.log/{0:020d}", b"of before, and longer\n")
    await store.append_log("s1", "new\n")
    assert await store.read_log("s1") == "new\n"


async def test_an_unknown_log_or_report_is_not_found(store):
    with pytest.raises(NotFoundError, match="no log of session nobody"):
        await store.read_log("nobody")
    with pytest.raises(NotFoundError, match="no report nobody"):
        await store.read_report("nobody")


async def test_the_sessions_with_a_log_are_listed(store):
    for id in ("s2", "s1", "a/b"):
        await store.append_log(id, "x")
    assert await store.logs() == ["a/b", "s1", "s2"]


async def test_what_is_no_id_is_refused(store):
    for id in ("", 7, "a\0", "x" * 201):
        with pytest.raises(InvalidArgumentError):
            await store.append_log(id, "x")
        with pytest.raises(InvalidArgumentError):
            await store.save_report(id, 1)


async def test_a_lone_surrogate_in_a_log_is_refused(store):
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        await store.append_log("s1", "\ud800")
    assert store.seq == 0


async def test_an_empty_piece_changes_nothing(store):
    await store.append_log("s1", "")
    assert (store.seq, await store.logs()) == (0, [])


async def test_a_report_is_replaced_as_a_whole(store):
    await store.save_report("r1", {"a": 1})
    await store.save_report("r1", [1, 2])
    assert await store.read_report("r1") == [1, 2]
    assert await store.reports() == ["r1"]


async def test_a_report_may_be_a_model_or_any_json(store):
    class Report(BaseModel):
        total: int

    await store.save_report("model", Report(total=3))
    await store.save_report("text", "plain")
    assert await store.read_report("model") == {"total": 3}
    assert await store.read_report("text") == "plain"


async def test_saving_a_report_says_where_it_is(store, memory):
    location = await store.save_report("r1", {"a": 1})
    assert location == f"{store.url}/reports/r1.json"
    assert (await memory.read("reports/r1.json")).data == b'{\n  "a": 1\n}\n'


async def test_a_report_that_is_not_json_is_refused(store):
    with pytest.raises(InvalidArgumentError):
        await store.save_report("r1", object())
    assert await store.reports() == []


async def test_a_file_that_cannot_be_written_is_told_to_who_reads_and_written_later(
    open_on, faulty, monkeypatch
):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0)
    store = await open_on(faulty, view_interval=0)
    faulty.fail("write", "logs/", UnavailableError("no space", code="disk_full"))
    assert await store.append_log("s1", "one\n") == 1
    with pytest.raises(UnavailableError, match="no space"):
        await store.read_log("s1")
    assert await store.read_log("s1") == "one\n"


async def test_logs_are_counted(store):
    await store.append_log("s1", "x")
    assert (await store.stats()).logs == 1


async def test_a_log_that_is_begun_anew_is_not_covered_by_what_another_handle_still_had_to_write(
    store, url, faulty, open_on
):
    await store.append_log("s1", "old " * 50)
    writing = faulty.hold("write", "logs/")
    late = await open_on(faulty, deadline=30)
    await writing.reached.wait()
    await store.delete_log("s1")
    await store.append_log("s1", "new\n")
    await store.snapshot()
    writing.opened.set()
    await late.aclose()
    assert await store.read_log("s1") == "new\n"


async def test_a_log_that_is_begun_anew_with_the_same_text_outlives_the_removal_of_the_one_before(
    store, url, faulty, open_on
):
    slow = await open_on(faulty, deadline=30)
    await slow.append_log("s1", "started\n")
    await slow.flush()
    await store.sync()
    removing = faulty.hold("delete", "logs/")
    removed = asyncio.ensure_future(slow.delete_log("s1"))
    await removing.reached.wait()
    await store.append_log("s1", "started\n")
    await store.snapshot()
    removing.opened.set()
    await removed
    await slow.aclose()
    assert await store.read_log("s1") == "started\n"


async def test_a_log_that_another_handle_has_begun_is_removed_though_this_one_has_not_seen_it(store, url):
    async with statepath.open(url, autosave=0) as other:
        await store.append_log("s1", "one\n")
        assert await other.delete_log("s1") is True
        await store.sync()
        await store.flush()
        with pytest.raises(NotFoundError):
            await store.read_log("s1")


async def test_a_report_is_removed_though_who_saved_it_has_not_written_its_file_yet(
    store, open_on, faulty, monkeypatch
):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 600)  # but who waits for it tries at once
    other = await open_on(faulty)
    faulty.fail("write", "reports/", UnavailableError("no space", code="disk_full"))
    with pytest.raises(UnavailableError):
        await other.save_report("r1", {"ok": True})
    assert await store.delete_report("r1") is True
    await other.sync()
    assert await other.reports() == await store.reports() == []


async def test_a_report_that_is_removed_while_its_first_file_is_written_stays_removed(
    store, open_on, faulty, keys
):
    other = await open_on(faulty)
    writing = faulty.hold("write", "reports/")
    saving = asyncio.ensure_future(other.save_report("r1", {"ok": True}))
    await writing.reached.wait()
    assert await store.delete_report("r1") is True
    writing.open()
    await saving
    assert await keys("reports/") == []


async def test_a_report_that_was_damaged_is_named_with_the_next_step(store, memory):
    await store.save_report("r1", {"ok": True})
    await store.flush()
    await memory.write("reports/r1.json", b'{"ok": ')
    with pytest.raises(CorruptionError, match="statepath repair --dry-run") as caught:
        await store.read_report("r1")
    assert caught.value.key == "reports/r1"


@pytest.fixture
async def unwritten(open_on, faulty):
    """A writer whose files of logs and reports fall behind what it commits, from now on."""
    store = await open_on(faulty)
    await store.append_log("s1", "old\n")
    await store.append_log("removed", "old\n")
    for id in ("r1", "removed"):
        await store.save_report(id, "old")
    await store.snapshot()
    for method in ("write", "delete"):
        for folder in ("logs/", "reports/"):
            faulty.fail(method, folder, UnavailableError("not now"), times=1000)
    return store


async def change(store):
    for changing in (
        store.delete_report("removed"),
        store.delete_log("removed"),
        store.append_log("s1", "new\n"),
        store.save_report("r1", "new"),
        store.save_report("r2", "new"),
    ):
        with suppress(UnavailableError):  # the file; it is committed all the same
            await changing


async def shown(reader):
    logs = {id: await reader.read_log(id) for id in await reader.logs()}
    return logs, {id: await reader.read_report(id) for id in await reader.reports()}


CHANGED = {"s1": "old\nnew\n"}, {"r1": "new", "r2": "new"}


async def test_who_opens_to_read_has_what_the_files_lack(unwritten, url):
    await change(unwritten)
    async with statepath.open(url, readonly=True) as reader:
        assert await shown(reader) == CHANGED
        for call in (reader.read_log, reader.read_report):
            with pytest.raises(NotFoundError):
                await call("removed")


async def test_a_reader_has_what_it_has_seen_committed(unwritten, url):
    async with statepath.open(url, readonly=True) as reader:
        await change(unwritten)
        await reader.sync(at_least=unwritten.seq)
        assert await shown(reader) == CHANGED


async def test_a_log_that_was_begun_anew_is_read_without_what_it_had_before(unwritten, url):
    with suppress(UnavailableError):
        await unwritten.delete_log("s1")
    await unwritten.append_log("s1", "anew\n")
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.read_log("s1") == "anew\n"


async def test_behind_a_snapshot_a_reader_takes_the_files_as_they_are(store, url, memory):
    async with statepath.open(url, readonly=True) as reader:
        await store.append_log("s1", "old\n")
        await store.save_report("r1", "old")
        await store.snapshot()
        await reader.sync(at_least=store.seq)
        await memory.write("reports/r1.json", b'"by hand"')
        assert await reader.read_report("r1") == "by hand"
        assert await reader.read_log("s1") == "old\n"


@pytest.mark.parametrize("anew", [False, True])
async def test_of_a_log_that_was_removed_since_a_reader_shows_no_piece_alone(store, url, anew):
    await store.append_log("s1", "old\n")
    await store.snapshot()
    await store.append_log("s1", "new\n")
    async with statepath.open(url, readonly=True) as reader:
        await store.delete_log("s1")
        if anew:
            await store.append_log("s1", "a\n")
            assert await reader.read_log("s1") == "a\n"
        else:
            with pytest.raises(NotFoundError):
                await reader.read_log("s1")


async def test_where_the_log_is_damaged_a_reader_shows_what_comes_before(store, url, memory):
    await store.append_log("s1", "old\n")
    await store.snapshot()
    await store.append_log("s1", "new\n")
    *_, last = [one async for one in store._engine.log.read(0)]
    await memory.write(slot_key(3), b"damaged")
    later = replace(last, first=4, last=4, id="1" * 24, prev="2" * 24, durable=3)
    await memory.write(slot_key(4), encode_commit(later))
    async with statepath.open(url, readonly=True) as reader:
        assert reader.seq == 2
        assert await reader.read_log("s1") == "old\nnew\n"
        assert (await reader.health()).damage


async def test_of_a_log_of_commits_that_begins_too_late_a_reader_is_told(store, url, memory, monkeypatch):
    await store.append_log("s1", "one\n")
    async with statepath.open(url, readonly=True) as reader:

        async def trimmed(after):
            raise HistoryTrimmedError("the log begins at seq 9", floor=9)
            yield

        monkeypatch.setattr(reader._engine.log, "read", trimmed)
        async with asyncio.timeout(60):
            with pytest.raises(HistoryTrimmedError):
                await reader.read_log("s1")


@pytest.mark.parametrize("kept", [True, False])
async def test_who_reads_many_reads_the_log_of_commits_once_unless_it_is_too_much_to_keep(
    store, url, monkeypatch, kept
):
    if not kept:
        monkeypatch.setattr(unwritten_files, "_KEPT_BYTES", 0)
    for n in range(3):
        await store.save_report(f"r{n}", n)
    async with statepath.open(url, readonly=True) as reader:
        read, met = reader._engine.log.read, []

        async def counted(after):
            async for commit in read(after):
                met.append(commit.last)
                yield commit

        monkeypatch.setattr(reader._engine.log, "read", counted)
        assert [await reader.read_report(f"r{n}") for n in range(3)] == [0, 1, 2]
        assert met == [1, 2, 3] * (1 if kept else 3)
        await store.save_report("r0", "new")
        assert await reader.read_report("r0") == "new"
        await store.snapshot()
        await store.save_report("r0", "newer")
        await reader.sync()
        assert await reader.read_report("r0") == "newer"


@pytest.fixture(params=[b"damaged", None], ids=["damaged", "missing"])
def without_floor(request, memory):
    """Takes the log's own record away."""

    async def without_floor():
        if request.param is None:
            await memory.delete("journal/floor")
        else:
            await memory.write("journal/floor", request.param)

    return without_floor


async def test_a_reader_needs_no_record_of_where_the_log_begins(unwritten, url, without_floor):
    await change(unwritten)
    await without_floor()
    async with statepath.open(url, readonly=True) as reader:
        assert await shown(reader) == CHANGED


async def test_nor_does_it_where_the_log_begins_later(trimmed, url, without_floor):
    await trimmed.append_log("s1", "one\n")
    await trimmed.save_report("r1", "one")
    await without_floor()
    async with statepath.open(url, readonly=True) as reader:
        assert await shown(reader) == ({"s1": "one\n"}, {"r1": "one"})


async def test_a_reader_that_reads_no_report_does_not_remember_each_that_was_ever_saved(
    store, url, monkeypatch
):
    monkeypatch.setattr(unwritten_files, "_MANY", 4)
    async with statepath.open(url, readonly=True) as reader:
        for n in range(24):
            await store.save_report(f"r{n}", n)
            if n % 4 == 0:
                await store.snapshot()
            await reader.sync()
        assert len(reader._engine.unwritten._changed) < 12
        assert len(await reader.reports()) == 24
        assert [await reader.read_report(f"r{n}") for n in (0, 20, 23)] == [0, 20, 23]
