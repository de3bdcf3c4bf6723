"""Factories that take too little or too much into account, and backends that say too much."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from broken.sound import Config, Sound, SoundFactory, caught_by
from statepath.backend import Parameter, StateURL


@caught_by("test_parsing_depends_on_the_url_alone")
class ParsesTheEnvironment(SoundFactory):
    def parse(self, url: StateURL) -> Config:
        return replace(super().parse(url), region=os.environ.get("PATH"))


@caught_by("test_parsing_depends_on_the_url_alone")
class ParsesWithSideEffects(SoundFactory):
    def parse(self, url: StateURL) -> Config:
        (Path(url.path) / "format").touch()
        return super().parse(url)


@caught_by("test_two_urls_are_two_configurations")
class ForgetsThePath(SoundFactory):
    def parse(self, url: StateURL) -> Config:
        return replace(super().parse(url), name="the one store")


@caught_by("test_an_unknown_parameter_is_refused")
class TakesAnyParameter(SoundFactory):
    def parse(self, url: StateURL) -> Config:
        return Config(url.path, url.user, url.password)


@caught_by("test_only_the_given_environment_counts")
class LooksAround(SoundFactory):
    def with_env(self, config: Config, env: Mapping[str, str]) -> Config:
        return super().with_env(config, {**env, "SOUND_REGION": os.environ.get("PATH", "")})


@caught_by("test_only_the_given_environment_counts")
class CompletesInPlace(SoundFactory):
    def with_env(self, config: Config, env: Mapping[str, str]) -> Config:
        object.__setattr__(config, "region", "here")
        return config


@caught_by("test_every_variable_that_completes_a_configuration_is_told")
class ForgetsAVariable(SoundFactory):
    def with_env(self, config: Config, env: Mapping[str, str]) -> Config:
        return replace(super().with_env(config, env), user=env.get("SOUND_USER"))


@caught_by("test_every_variable_that_completes_a_configuration_is_told")
class TellsItsPassword(SoundFactory):
    def parameters(self, url: StateURL) -> list[Parameter]:
        return [one._replace(secret=False) for one in super().parameters(url)]


@caught_by("test_a_password_is_never_shown")
class ShowsItsUrl(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.url = f"sound://{config.user}:{config.password}@host{config.name}"


@caught_by("test_a_password_is_never_shown")
class ShowsItsConfig(SoundFactory):
    def with_env(self, config: Config, env: Mapping[str, str]) -> Config:
        class Loud(Config):
            def __repr__(self) -> str:
                return f"Loud({asdict(self)})"

        return Loud(**asdict(config))


@caught_by("test_a_secret_of_the_environment_is_never_shown")
class ShowsWhatTheEnvironmentSays(SoundFactory):
    def parameters(self, url: StateURL) -> list[Parameter]:
        return [one._replace(secret=True) for one in super().parameters(url)]


@caught_by("test_capabilities_are_a_value")
class CapabilitiesOfTheMoment(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.capabilities = replace(self.capabilities, durable=readonly)


@caught_by("test_capabilities_are_a_value")
class CapabilitiesAsADictionary(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)

        class Flags(dict[str, Any]):
            __getattr__ = dict.__getitem__

        self.capabilities = Flags(asdict(Sound.capabilities))  # type: ignore[assignment]
