from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from typing import NoReturn

import pytest
from statepath import discovery, installed
from statepath.backend import Backend
from statepath.discovery import BackendInfo, Location, backends, check_apart, connect, resolve
from statepath.errors import (
    AccessDeniedError,
    BackendNotInstalledError,
    ConfigurationError,
    DuplicateSchemeError,
    InvalidArgumentError,
    StateError,
    UnavailableError,
    UnknownSchemeError,
)
from statepath.memory import MemoryBackend
from statepath.migrations import load_migrations

Install = Callable[..., None]
WITH_SECRETS = "zoo://me:hunter2@host/a?api_key=hunter3"

FACTORY = """
class Factory:
    def parse(self, url):
        url.only("region")
        return {"path": url.path, **url.query}
    def with_env(self, config, env):
        return {"region": env.get("REGION"), **config}
    async def connect(self, config, *, readonly=False):
        return (config, readonly)

factory = Factory()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with entry points on the path, as an installer does."""

    def install(name: str, points: dict[str, str], source: str = FACTORY, *, folder: str = "site") -> None:
        site = tmp_path / folder
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{scheme} = {target}" for scheme, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[statepath.backends]", *lines, ""]))
        for target in points.values():
            module = target.partition(":")[0]
            (site / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
            imported.append(module)
        monkeypatch.syspath_prepend(str(site))

    imported: list[str] = []
    yield install
    for module in imported:
        sys.modules.pop(module, None)


def test_a_scheme_leads_to_the_factory_that_a_distribution_announces(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    factory, config, url = resolve("zoo:///a/b", {"REGION": "eu"})
    assert factory is sys.modules["zoo_backend"].factory
    assert config == {"path": "/a/b", "region": "eu"}
    assert url.scheme == "zoo"


def test_the_url_wins_over_the_environment(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    assert resolve("zoo:///a?region=us", {"REGION": "eu"})[1]["region"] == "us"


def test_the_environment_is_the_process_s_where_none_is_given(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    monkeypatch.setenv("REGION", "asia")
    assert resolve("zoo:///a")[1]["region"] == "asia"


async def test_connect_hands_on_the_configuration_and_the_mode(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    config = {"path": "/a", "region": "eu"}
    assert await connect("zoo:///a", env={"REGION": "eu"}) == (config, False)  # type: ignore[comparison-overlap]  # a fake
    assert await connect("zoo:///a", readonly=True, env={"REGION": "eu"}) == (config, True)  # type: ignore[comparison-overlap]  # a fake


async def test_the_memory_backend_is_found_as_a_third_party_s_would_be() -> None:
    backend: Backend = await connect("memory://")
    assert isinstance(backend, MemoryBackend)
    await backend.close()


def test_a_plain_path_is_for_the_local_backend(tmp_path: Path) -> None:
    assert resolve(str(tmp_path))[2].scheme == "file"
    assert resolve(tmp_path)[0] is resolve("file:///x")[0]


def test_backends_are_listed_without_being_imported(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, "raise RuntimeError")
    listed = backends()
    assert BackendInfo("zoo", "statepath-zoo", "1.0", "zoo_backend:factory") in listed
    assert {"file", "memory"} <= {info.scheme for info in listed}
    assert list(listed) == sorted(listed, key=lambda info: info.scheme)
    assert "zoo_backend" not in sys.modules


def test_only_the_entry_point_that_the_scheme_names_is_loaded(install: Install) -> None:
    install("statepath-bad", {"bad": "bad_backend:factory"}, "raise RuntimeError")
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    resolve("zoo:///a")
    assert "bad_backend" not in sys.modules


def test_an_alias_is_a_second_entry_point(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory", "zoos": "zoo_backend:factory"})
    assert resolve("zoos:///a")[0] is resolve("zoo:///a")[0]


def test_two_distributions_that_claim_a_scheme_are_both_named(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    install("other-zoo", {"zoo": "other_backend:factory"}, folder="other")
    with pytest.raises(DuplicateSchemeError, match=r"other-zoo 1.0 and by statepath-zoo 1.0") as caught:
        resolve("zoo:///a")
    assert caught.value.distributions == ("other-zoo 1.0", "statepath-zoo 1.0")
    resolve("memory://")


def test_two_distributions_may_not_even_claim_it_for_one_target(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    install("zoo-fork", {"zoo": "zoo_backend:factory"}, folder="other")
    with pytest.raises(DuplicateSchemeError):
        resolve("zoo:///a")


def test_one_distribution_that_is_found_twice_is_no_conflict(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    install("Statepath.Zoo", {"zoo": "zoo_backend:factory"}, folder="checkout")
    resolve("zoo:///a")


def test_an_unknown_scheme_lists_the_known_ones(install: Install) -> None:
    with pytest.raises(
        UnknownSchemeError, match=r"no backend for ftp:// is installed \(installed: .*file.*\)"
    ) as caught:
        resolve("ftp://host/a")
    assert {"file", "memory"} <= set(caught.value.known)
    assert caught.value.backend == "ftp"


@pytest.mark.parametrize(("slip", "meant"), [("memroy", "memory"), ("postgrse", "postgres"), ("s33", "s3")])
def test_a_slip_in_a_scheme_is_recognised(slip: str, meant: str) -> None:
    with pytest.raises(UnknownSchemeError, match=f"did you mean {meant}://"):
        resolve(f"{slip}://x")


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [
        ("s3", "s3"),
        ("gs", "gcs"),
        ("gcs", "gcs"),
        ("az", "azure"),
        ("abfs", "azure"),
        ("azblob", "azure"),
        ("postgresql", "postgres"),
        ("postgres", "postgres"),
    ],
)
def test_a_backend_of_ours_that_is_missing_comes_with_its_install_line(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_announced", list)
    with pytest.raises(BackendNotInstalledError) as caught:
        resolve(f"{scheme}://bucket/a")
    assert caught.value.install == f"pip install 'statepath[{extra}]'"
    assert caught.value.install in str(caught.value)


def test_a_backend_that_cannot_be_imported_is_named_with_the_cause(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, "import no_such_sdk")
    with pytest.raises(ConfigurationError, match=r"statepath-zoo 1.0 .*No module named 'no_such_sdk'"):
        resolve("zoo:///a")


def test_a_target_that_does_not_exist_is_named(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, "")
    with pytest.raises(ConfigurationError, match=r"cannot be loaded from zoo_backend:factory"):
        resolve("zoo:///a")


def test_what_is_no_factory_is_refused(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, "class factory:\n    def parse(url): ...\n")
    with pytest.raises(
        ConfigurationError, match="is not a backend factory: it has no with_env and no connect"
    ):
        resolve("zoo:///a")


def test_a_broken_distribution_hides_no_other(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    broken = tmp_path / "site" / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"[statepath.backends]\n\xff\xfe")
    resolve("zoo:///a")
    assert "entry points cannot be read" in caplog.text
    assert load_migrations().collections == ()


def test_a_distribution_that_is_installed_beside_others_is_found_at_once(
    install: Install, tmp_path: Path
) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    assert "bar" not in {info.scheme for info in backends()}
    later = tmp_path / "site" / "statepath_bar-1.0.dist-info"
    later.mkdir()
    (later / "METADATA").write_text("Metadata-Version: 2.1\nName: statepath-bar\nVersion: 1.0\n")
    (later / "entry_points.txt").write_text("[statepath.backends]\nbar = zoo_backend:factory\n")
    assert "bar" in {info.scheme for info in backends()}
    shutil.rmtree(later)
    assert "bar" not in {info.scheme for info in backends()}


def test_what_is_installed_is_not_read_again_while_nothing_changes(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    known, read, real = backends(), [], installed.distributions

    def distributions(path: list[str]) -> Iterable[Distribution]:
        read.extend(path)
        return real(path=path)

    monkeypatch.setattr(installed, "distributions", distributions)
    assert backends() == known
    assert str(tmp_path / "site") not in read


def test_a_distribution_without_metadata_is_listed_all_the_same(install: Install, tmp_path: Path) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    (tmp_path / "site" / "statepath_zoo-1.0.dist-info" / "METADATA").unlink()
    assert "zoo" in {info.scheme for info in backends()}


def test_so_it_is_where_the_backport_of_importlib_metadata_has_found_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(Message):
        def __getitem__(self, name: str) -> NoReturn:
            raise KeyError(name)

    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    monkeypatch.setattr("importlib.metadata.Distribution.metadata", Strict())
    assert "zoo" in {info.scheme for info in backends()}


def test_an_error_of_the_backend_about_the_url_is_handed_on(install: Install) -> None:
    install("statepath-zoo", {"zoo": "zoo_backend:factory"})
    with pytest.raises(InvalidArgumentError, match="no parameter 'colour'"):
        resolve("zoo:///a?colour=red")


def test_any_other_exception_of_parse_names_the_backend(install: Install) -> None:
    install(
        "statepath-zoo",
        {"zoo": "zoo_backend:factory"},
        FACTORY.replace('url.only("region")', 'url.path["x"]'),
    )
    with pytest.raises(
        ConfigurationError, match=r"'zoo' of statepath-zoo 1.0 cannot use .*zoo:///a: TypeError"
    ) as caught:
        resolve("zoo:///a")
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    "raised",
    [
        "ValueError(url.netloc)",
        "ValueError(repr(url.password))",
        "KeyError(url.query['api_key'])",
        "__import__('statepath.errors').errors.InvalidArgumentError(url.netloc)",
        "__import__('statepath.errors').errors.UnavailableError('down') from OSError(url.netloc)",
    ],
)
def test_what_a_backend_says_of_the_url_never_shows_credentials(install: Install, raised: str) -> None:
    install(
        "statepath-zoo",
        {"zoo": "zoo_backend:factory"},
        FACTORY.replace('url.only("region")', f"raise {raised}"),
    )
    with pytest.raises(StateError) as caught:
        resolve(WITH_SECRETS)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


async def test_a_failed_connection_never_shows_credentials(install: Install) -> None:
    source = FACTORY.replace('{"path": url.path, **url.query}', "url").replace(
        '{"region": env.get("REGION"), **config}', "config"
    )
    source = source.replace("return (config, readonly)", "raise OSError('cannot reach ' + config.netloc)")
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, source)
    with pytest.raises(ConfigurationError) as caught:
        await connect(WITH_SECRETS.partition("?")[0])
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


async def test_any_other_exception_of_connect_names_the_backend_and_is_its_cause(install: Install) -> None:
    source = FACTORY.replace("return (config, readonly)", "raise OSError('cannot reach ' + config['path'])")
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, source)
    with pytest.raises(
        ConfigurationError,
        match=r"'zoo' of statepath-zoo 1.0 cannot use .*zoo:///a: OSError: cannot reach /a",
    ) as caught:
        await connect("zoo:///a")
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_failure_whose_message_is_not_shown_stays_what_it_was(install: Install) -> None:
    source = FACTORY.replace(
        "return (config, readonly)",
        "from statepath.errors import UnavailableError as Error\n"
        "        class Down(Error): pass\n"
        "        raise Down('no answer to hunter2', key='hunter2', code='not_sent')",
    )
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, source)
    with pytest.raises(UnavailableError, match="Down, which quotes a secret and is not shown") as caught:
        await connect(WITH_SECRETS.partition("?")[0])
    told = caught.value
    assert (type(told), told.code, told.retryable, told.key) == (UnavailableError, "not_sent", True, None)
    assert "hunter" not in "".join(traceback.format_exception(told))


async def test_the_backend_s_own_errors_reach_the_caller(install: Install) -> None:
    source = FACTORY.replace(
        "return (config, readonly)",
        "from statepath.errors import AccessDeniedError; raise AccessDeniedError('no entry', backend='zoo')",
    )
    install("statepath-zoo", {"zoo": "zoo_backend:factory"}, source)
    with pytest.raises(AccessDeniedError, match="no entry"):
        await connect("zoo:///a")


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("s3://b/p", "s3://b/p/sub"),
        ("s3://b", "s3://b/sub"),
        ("gs://b/p", "gcs://b/p/sub"),
        ("az://ccc/p", "abfs://ccc/p/sub"),
        ("az://ccc/p?account_name=one", "abfs://ccc@one.dfs.core.windows.net/p/sub"),
        ("az://ccc/p", "azblob://ccc/p/sub?account_name=one"),
        ("s3://b/p?endpoint_url=http://host", "s3://b/p/sub?endpoint_url=http://host/"),
    ],
)
def test_a_place_within_the_store_is_refused_however_it_is_written(store: str, place: str) -> None:
    with pytest.raises(InvalidArgumentError, match="within the one"):
        check_apart(store, place)
    check_apart(place, store)


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("gs://b/p", "gcs://b/p/"),
        ("s3://b/p", "s3://b/p?timeout=5"),
        ("az://ccc/p?account_name=one", "abfs://ccc@one.dfs.core.windows.net/p"),
    ],
)
def test_a_store_is_itself_however_it_is_written(store: str, place: str) -> None:
    with pytest.raises(InvalidArgumentError, match="onto itself"):
        check_apart(store, place)


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("s3://b/p", "s3://b/p/sub?endpoint_url=http://other"),
        ("s3://b/p", "s3://b/pp"),
        ("s3://b/p", "gs://b/p/sub"),
        ("az://ccc/p?account_name=one", "az://ccc/p/sub?account_name=two"),
    ],
)
def test_another_place_is_none_within_the_store(store: str, place: str) -> None:
    check_apart(store, place)


def test_a_place_is_within_a_store_of_the_same_service_only() -> None:
    store, place = Location.of("s3://b/p"), Location.of("s3://b/p/sub")
    with pytest.raises(InvalidArgumentError, match="within the one"):
        place.check_outside(store)
    Location.of("s3://b/p/sub?endpoint_url=http://host").check_outside(store)
    store.check_outside(store)
