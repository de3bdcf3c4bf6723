"""The conformance kit: what a backend must do, as tests that its author runs.

    class TestMine(BackendContract):
        factory = my_backend.factory

        def state_path(self, folder: Path) -> str:
            return f"mine://{folder}/store"

Each check is an `async` method without parameters. pytest collects them from the subclass; whoever awaits one
without pytest sets `root` to an empty folder first. Needs the extra `testing`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"statepath.testing.{name}"
        for name in (
            "accelerators",
            "atomicity",
            "commits",
            "conditions",
            "configuration",
            "documents",
            "lifecycle",
            "listing",
            "machine",
            "objects",
            "processes",
            "queries",
        )
    )
)

from statepath.testing.contract import BackendContract  # noqa: E402 - after the asserts in it were registered

__all__ = ["BackendContract"]
