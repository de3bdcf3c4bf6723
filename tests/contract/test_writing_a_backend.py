"""The page for a backend's author shows the example plugin as it is."""

import re
from pathlib import Path

import pytest
from statepath.backend import Capabilities

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/writing-a-backend.md").read_text()
BLOCKS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "file", "code"), BLOCKS, ids=lambda part: str(part)[:30])
def test_what_is_shown_stands_in_the_file(language: str, file: str, code: str) -> None:
    if language == "sh":
        assert code.strip() in (ROOT / "examples/plugin/README.md").read_text()
    else:
        assert code in (ROOT / "examples/plugin" / file).read_text()


def test_every_file_that_an_author_writes_is_told() -> None:
    told = re.findall(r"^\| `([\w./]+)` \|.*\| (\d+) \|$", PAGE, re.MULTILINE)
    assert {file for file, _ in told} == {
        str(path.relative_to(ROOT / "examples/plugin"))
        for path in (ROOT / "examples/plugin").rglob("*")
        if path.suffix in {".py", ".toml"} and path.name != "test_sqlite.py"
    }
    for file, lines in told:
        written = len((ROOT / "examples/plugin" / file).read_text().splitlines())
        assert abs(written - int(lines)) <= max(5, written // 5), f"{file} has {written} lines"


def test_every_capability_is_told() -> None:
    for flag in Capabilities.__dataclass_fields__:
        assert f"`{flag}`" in PAGE or f"{flag}=" in PAGE, flag


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
