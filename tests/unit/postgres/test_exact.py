"""What the documents view keeps beside jsonb: only what jsonb would not give back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statepath_postgres.exact import forms


def kept(document: bytes) -> bytes | None:
    return forms(document)[1]


@pytest.mark.parametrize("number", ["0", "0.0", "10", "-1", "-0.5", "1.50", "100"])
def test_a_number_that_jsonb_gives_back_is_not_kept_twice(number: str) -> None:
    assert kept(f'{{"n":{number},"list":[{number},{number}],"m":{number}}}'.encode()) is None


@pytest.mark.parametrize("number", ["-0", "-0.0", "-0.00", "1e5", "1E5", "-2.5e-7", "0e1"])
@pytest.mark.parametrize("place", ['{"n":%s}', '{"n":%s,"m":1}', '{"n":[1,%s]}', '{"n":[%s,1]}'])
def test_a_number_that_jsonb_writes_in_another_form_is_kept_as_it_was(number: str, place: str) -> None:
    document = (place % number).encode()
    assert kept(document) == document


NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "7", "10"]),
    st.sampled_from(["", ".0", ".50"]),
    st.sampled_from(["", "", "e5", "E+2", "e-07"]),
)
WORDS = st.sampled_from(["true", "false", "null"])


def documents(letters: str) -> st.SearchStrategy[str]:
    """JSON objects, written without spaces; their texts are of these letters."""
    texts = st.text(letters, max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False))
    single = NUMBERS | texts | WORDS
    several = st.lists(single, max_size=3).map(lambda values: f"[{','.join(values)}]")
    return objects(texts, single | several | objects(texts, single))


def objects(names: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.dictionaries(names, values, max_size=3)
    return members.map(
        lambda each: "{%s}" % ",".join(f"{name}:{value}" for name, value in each.items())  # noqa: UP031
    )


def holds_what_jsonb_rewrites(document: str) -> bool:
    numbers: list[str] = []
    json.loads(document, parse_int=numbers.append, parse_float=numbers.append)
    return any("e" in number.lower() or str(float(number)) == "-0.0" for number in numbers)


@settings(deadline=None)
@given(documents('aeE09.-+:,[]{}"\\ é'))
def test_no_number_that_jsonb_rewrites_is_overlooked(document: str) -> None:
    if holds_what_jsonb_rewrites(document):
        assert kept(document.encode()) == document.encode()


@settings(deadline=None)
@given(documents("aeE09.-+ é"))
def test_only_documents_with_such_a_number_are_kept_twice(document: str) -> None:
    assert (kept(document.encode()) is not None) == holds_what_jsonb_rewrites(document)
