"""Session logs and reports: files that the log orders but does not keep."""

import asyncio

import pytest
import statepath
from pydantic import BaseModel
from statepath.errors import CorruptionError, InvalidArgumentError, NotFoundError, UnavailableError


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
