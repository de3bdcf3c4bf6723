"""A three-way merge of JSON: what both sides did is kept, and where they meet is told."""

from functools import partial

import pytest
from statepath.errors import InvalidArgumentError
from statepath.merging import Clash, check_policy, merge, resolver

BASE = {"id": "a", "status": "pending", "logs": ["x"], "result": {"passed": 1, "failed": 0}}


@pytest.mark.parametrize(
    ("theirs", "ours", "merged"),
    [
        ({"status": "failed"}, {}, {"status": "failed"}),
        ({}, {"status": "failed"}, {"status": "failed"}),
        ({"status": "failed"}, {"owner": "b"}, {"status": "failed", "owner": "b"}),
        ({"status": "failed"}, {"status": "failed"}, {"status": "failed"}),
        ({"logs": ["x", "t"]}, {"logs": ["x", "o", "p"]}, {"logs": ["x", "t", "o", "p"]}),
        ({"logs": ["x", "t"]}, {"logs": ["x", "t"]}, {"logs": ["x", "t", "t"]}),
        ({"logs": ["x", "t"]}, {"logs": ["x", "t", "u"]}, {"logs": ["x", "t", "t", "u"]}),
        ({"logs": []}, {"logs": []}, {"logs": []}),
        ({"new": [1]}, {"new": [1]}, {"new": [1]}),
        (
            {"result": {"passed": 2, "failed": 0}},
            {"result": {"passed": 1, "failed": 3}},
            {"result": {"passed": 2, "failed": 3}},
        ),
        ({"new": {"a": 1}}, {"new": {"b": 2}}, {"new": {"a": 1, "b": 2}}),
    ],
)
def test_what_both_sides_changed_is_kept(theirs, ours, merged):
    assert merge(BASE, BASE | theirs, BASE | ours) == BASE | merged


def test_a_member_that_one_side_removed_is_gone():
    without = {name: value for name, value in BASE.items() if name != "status"}
    assert merge(BASE, without, BASE | {"owner": "b"}) == without | {"owner": "b"}
    assert merge(BASE, BASE | {"owner": "b"}, without) == without | {"owner": "b"}


@pytest.mark.parametrize(
    ("theirs", "ours", "place"),
    [
        ({"status": "failed"}, {"status": "completed"}, "status"),
        ({"logs": []}, {"logs": ["x", "o"]}, "logs"),
        ({"logs": ["t", "x"]}, {"logs": ["x", "o"]}, "logs"),
        ({"result": {"passed": 2}}, {"result": {"passed": 3, "failed": 0}}, "result.passed"),
        ({"flag": True}, {"flag": 1}, "flag"),
        ({"new": [1]}, {"new": [2]}, "new"),
    ],
)
def test_a_place_that_both_changed_is_a_clash(theirs, ours, place):
    with pytest.raises(Clash, match=f"changed {place}$"):
        merge(BASE, BASE | theirs, BASE | ours)


@pytest.mark.parametrize("ours", [{"status": "failed"}, {}], ids=["changed", "left"])
def test_a_document_that_the_other_side_deleted_is_a_clash(ours):
    with pytest.raises(Clash, match="the other side deleted it"):
        merge(BASE, None, BASE | ours)


def test_true_is_not_one():
    assert merge({"a": 1}, {"a": True}, {"a": 1}) == {"a": True}


def test_a_policy_is_one_of_three_words_or_a_function():
    assert check_policy("merge") == "merge"
    assert resolver("raise") is None
    with pytest.raises(InvalidArgumentError, match="'latest' is no way"):
        check_policy("latest")


def test_a_policy_is_no_async_function():
    async def later(base, theirs, ours):
        return ours

    class Later:
        async def __call__(self, base, theirs, ours):
            return ours

    for policy in (later, Later(), partial(later)):
        with pytest.raises(InvalidArgumentError, match="not async"):
            check_policy(policy)
