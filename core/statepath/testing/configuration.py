"""Checks of the factory: from a state path to a connection."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from unittest import mock

import pytest

from statepath.backend import Capabilities, StateURL, SupportsParameters
from statepath.errors import InvalidArgumentError
from statepath.testing.subject import Subject

_SECRET = "open-sesame"  # noqa: S105 - nobody takes it


class _Asked(Mapping[str, str]):
    """An empty environment, and what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class ConfigurationChecks(Subject):
    async def test_parsing_depends_on_the_url_alone(self) -> None:
        path = self.new_store()
        before = sorted(self.root.rglob("*"))
        first = self.factory.parse(StateURL.parse(path))
        with mock.patch.dict(os.environ, clear=True):
            assert self.factory.parse(StateURL.parse(path)) == first
        assert sorted(self.root.rglob("*")) == before

    async def test_two_urls_are_two_configurations(self) -> None:
        one, other = (self.factory.parse(StateURL.parse(self.new_store())) for _ in range(2))
        assert one != other

    async def test_an_unknown_parameter_is_refused(self) -> None:
        path = self.new_store()
        url = f"{path}{'&' if '?' in path else '?'}no_such_parameter=1"
        with pytest.raises(InvalidArgumentError, match="no_such_parameter"):
            self.factory.parse(StateURL.parse(url))

    async def test_only_the_given_environment_counts(self) -> None:
        config = self.factory.parse(StateURL.parse(self.new_store()))
        before = repr(config)
        completed = self.factory.with_env(config, {})
        with mock.patch.dict(os.environ, clear=True):
            assert self.factory.with_env(config, {}) == completed
        assert repr(config) == before, "the configuration was changed in place"

    async def test_every_variable_that_completes_a_configuration_is_told(self) -> None:
        url = StateURL.parse(self.new_store())
        if isinstance(self.factory, SupportsParameters):
            told = self.factory.parameters(url)
            assert len({one.name for one in told}) == len(told)
            asked = _Asked()
            self.factory.with_env(self.factory.parse(url), asked)
            assert asked.names <= {name for one in told for name in one.variables}
            assert not [one.name for one in told if one.said and one.said == url.password and not one.secret]

    async def test_a_password_is_never_shown(self) -> None:
        path = self.new_store()
        password = StateURL.parse(path).password
        async with self.connection(path) as backend:
            assert isinstance(backend.url, str)
            assert backend.url
            if password:
                assert password not in backend.url
                assert password not in repr(self.config(path))

    async def test_a_secret_of_the_environment_is_never_shown(self) -> None:
        url = StateURL.parse(self.new_store())
        if not isinstance(self.factory, SupportsParameters):
            return
        secrets = {name for one in self.factory.parameters(url) if one.secret for name in one.variables}
        for name in secrets:
            with suppress(InvalidArgumentError):  # it may have to be more than any text
                assert _SECRET not in repr(self.factory.with_env(self.factory.parse(url), {name: _SECRET}))

    async def test_capabilities_are_a_value(self) -> None:
        async with self.writer_and_reader() as (one, other):
            assert type(one.capabilities) is Capabilities
            assert one.capabilities == other.capabilities
