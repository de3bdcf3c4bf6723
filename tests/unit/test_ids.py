from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from statepath.engine.ids import (
    MAX_ID_BYTES,
    check_id,
    decode_id,
    document_key,
    encode_id,
    log_key,
    parse_ref,
    report_key,
)
from statepath.errors import InvalidArgumentError
from statepath.naming import RESERVED, check_collection

ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda id: len(id.encode()) <= MAX_ID_BYTES
)
near_ids = st.text(st.sampled_from("aA%4.~cConN/ä6"), min_size=1, max_size=5)


@pytest.mark.parametrize(
    "id",
    ["task_123", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", "a", "0", "a.b", "-_-", "con2", "x" * MAX_ID_BYTES],
)
def test_an_id_of_lower_case_letters_digits_and_marks_names_its_own_file(id: str) -> None:
    assert encode_id(check_id(id)) == id


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("Task", "%54ask"),
        ("a/b", "a%2fb"),
        ("..", "%2e%2e"),
        (".", "%2e"),
        (".hidden", "%2ehidden"),
        ("end.", "end%2e"),
        ("a b~%", "a%20b%7e%25"),
        ("ä", "%c3%a4"),
        ("con", "%63on"),
        ("nul.txt", "%6eul.txt"),
        ("com1", "%63om1"),
        ("lpt9.tar.gz", "%6cpt9.tar.gz"),
        ("C:\\x", "%43%3a%5cx"),
    ],
)
def test_everything_else_is_percent_encoded_in_lower_case(id: str, name: str) -> None:
    assert encode_id(id) == name
    assert decode_id(name) == id


def test_a_name_that_would_be_too_long_becomes_its_beginning_and_a_digest() -> None:
    name = encode_id("Ä" * 100)
    assert len(name) <= 200
    assert re.fullmatch(r"(%[0-9a-f]{2})+~[0-9a-f]{64}", name)
    assert decode_id(name) is None


def test_the_digest_tells_long_ids_with_one_beginning_apart() -> None:
    assert encode_id("Ä" * 99 + "a") != encode_id("Ä" * 99 + "b")


@given(ids)
def test_a_name_is_safe_on_every_disk(id: str) -> None:
    name = encode_id(id)
    assert re.fullmatch(r"[a-z0-9_.~%-]{1,200}", name)
    assert name.strip(".") == name
    assert not re.fullmatch(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", name)


@given(ids)
@example("Ä" * 100)
def test_a_name_decodes_to_its_id_unless_it_was_shortened(id: str) -> None:
    name = encode_id(id)
    assert decode_id(name) == (None if "~" in name else id)


def test_a_name_is_shortened_only_where_it_would_not_fit() -> None:
    assert encode_id("Ä" * 33 + "ab") == "%c3%84" * 33 + "ab"
    assert "~" in encode_id("Ä" * 33 + "abc")


@given(near_ids, near_ids)
def test_two_ids_never_meet_in_one_file_of_a_case_insensitive_disk(one: str, other: str) -> None:
    assert (encode_id(one).casefold() == encode_id(other).casefold()) is (one == other)


@pytest.mark.parametrize(
    "name", ["Task", "a b", "%41%", "%6a", "con", "a%2Fb", "", "%ff", ".a", "%00", "a~b"]
)
def test_a_name_that_no_id_is_stored_under_decodes_to_nothing(name: str) -> None:
    assert decode_id(name) is None


@pytest.mark.parametrize(
    ("id", "message"),
    [
        (None, "must be a str, not NoneType"),
        (7, "must be a str, not int"),
        (b"task", "must be a str, not bytes"),
        ("", "must not be empty"),
        ("a\0b", "must not contain NUL: character 2"),
        ("a\nb", r"control characters: character 2 is U\+000A"),
        ("\x7f", r"control characters: character 1 is U\+007F"),
        ("ab\x85", r"control characters: character 3 is U\+0085"),
        ("a\ud800", "lone surrogates: character 2"),
        ("x" * 201, "at most 200 UTF-8 bytes; this one has 201"),
        ("ä" * 101, "at most 200 UTF-8 bytes; this one has 202"),
    ],
)
def test_what_is_no_id_is_refused_with_its_own_message(id: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_id(id)


@pytest.mark.parametrize("id", [" ", "a b", "ä", "\u2028", "\u200d", "..", "/etc/passwd", "😀", "ä" * 100])
def test_any_other_text_is_an_id(id: str) -> None:
    assert check_id(id) == id


def test_a_subclass_of_str_is_stored_as_the_text_that_it_is() -> None:
    class Loud(str):
        def __str__(self) -> str:
            return "loud"

    id = check_id(Loud("quiet"))
    assert type(id) is str
    assert id == "quiet"


@pytest.mark.parametrize("name", ["tasks", "a", "a1_b", "x" * 64])
def test_a_collection_is_named_in_lower_case(name: str) -> None:
    assert check_collection(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "must be a str, not NoneType"),
        ("", "begin with a letter"),
        ("Tasks", "begin with a letter"),
        ("1a", "begin with a letter"),
        ("_state", "begin with a letter"),
        ("a-b", "begin with a letter"),
        ("a/b", "begin with a letter"),
        ("tasks\n", "begin with a letter"),
        ("x" * 65, "at most 64 characters"),
        ("con", "device on Windows"),
        *((name, "the store uses that name itself") for name in sorted(RESERVED)),
    ],
)
def test_what_names_no_collection_is_refused(name: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_collection(name)


def test_keys_follow_the_layout_on_storage() -> None:
    assert document_key("tasks", "A/1") == "tasks/%41%2f1.json"
    assert log_key("s.1") == "logs/session_s.1.log"
    assert report_key("r 1") == "reports/r%201.json"


def test_a_reference_is_cut_at_its_first_slash() -> None:
    assert parse_ref("tasks/task_1") == ("tasks", "task_1")
    assert parse_ref("tasks/a/b") == ("tasks", "a/b")


@pytest.mark.parametrize("text", ["tasks", "tasks/", "/task_1", "", "Tasks/x"])
def test_what_refers_to_no_document_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_ref(text)
