"""What a URL and the environment say of an object store beside its place."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from statepath.backend import Parameter
from statepath.errors import InvalidArgumentError
from statepath.objectstore import Parameters, flag, seconds, text


@dataclass(frozen=True, slots=True)
class Config:
    region: str | None = None
    signed: bool | None = None
    timeout: float | None = None


PARAMETERS = Parameters("STATE_CLOUD_", region=text, signed=flag, timeout=seconds)


def test_what_the_url_says_is_understood():
    query = {"region": "eu", "signed": "false", "timeout": "2.5"}
    assert PARAMETERS.said(Config(), query) == Config("eu", False, 2.5)


def test_the_environment_says_only_what_the_url_does_not():
    env = {"STATE_CLOUD_REGION": "us", "STATE_CLOUD_SIGNED": "true", "STATE_CLOUD_TIMEOUT": ""}
    assert PARAMETERS.completed(Config(region="eu"), env) == Config("eu", True, None)


def test_what_is_not_understood_is_named_as_it_was_given():
    with pytest.raises(InvalidArgumentError, match=r"^signed is 'yes'"):
        PARAMETERS.said(Config(), {"signed": "yes"})
    with pytest.raises(InvalidArgumentError, match=r"^STATE_CLOUD_SIGNED is 'yes'"):
        PARAMETERS.completed(Config(), {"STATE_CLOUD_SIGNED": "yes"})


def test_a_variable_that_the_url_makes_needless_is_not_read():
    assert PARAMETERS.completed(Config(signed=True), {"STATE_CLOUD_SIGNED": "yes"}) == Config(signed=True)


def test_its_names_are_those_that_a_url_may_have():
    assert [*PARAMETERS] == ["region", "signed", "timeout"]


def test_all_are_listed_with_their_variables_and_what_holds_where_nothing_is_said():
    assert PARAMETERS.listed({"region": "eu"}, {"timeout": "60"}) == [
        Parameter("region", ("STATE_CLOUD_REGION",), "eu"),
        Parameter("signed", ("STATE_CLOUD_SIGNED",)),
        Parameter("timeout", ("STATE_CLOUD_TIMEOUT",), default="60"),
    ]
