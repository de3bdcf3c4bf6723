from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from inspect import isclass

import pytest
from statepath import errors
from statepath.errors import (
    BackendNotInstalledError,
    ConflictError,
    DuplicateSchemeError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    StoreLockedError,
    ThrottledError,
    UnknownSchemeError,
)

CLASSES = [kind for kind in vars(errors).values() if isclass(kind) and issubclass(kind, StateError)]
EXAMPLES = [
    *(kind("what, why, what next", key="tasks/a", backend="s3") for kind in CLASSES),
    ConflictError("m", base=1, current=2, theirs={"a": 1}, ours=None),
    HistoryTrimmedError("m", floor=7),
    StoreLockedError("m", holder={"pid": 1}),
    UnknownSchemeError("m", known=("file",)),
    BackendNotInstalledError("m", install="pip install x"),
    DuplicateSchemeError("m", distributions=("a", "b")),
    NotFoundError("m", code="gone", retryable=True),
]


def pickled(error: StateError) -> StateError:
    copy: StateError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    return copy


@pytest.mark.parametrize("copied", [copy.copy, pickled])
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_a_process_boundary_whole(
    error: StateError, copied: Callable[[StateError], StateError]
) -> None:
    other = copied(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


def test_notes_and_attributes_that_were_added_cross_too() -> None:
    error = NotFoundError("m")
    error.add_note("while loading")
    assert pickled(error).__notes__ == ["while loading"]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.default_code for kind in CLASSES]
    assert len(set(codes)) == len(codes)


def test_code_and_retryable_can_be_told_more_precisely() -> None:
    assert (ThrottledError("m").code, ThrottledError("m").retryable) == ("throttled", True)
    assert NotFoundError("m").retryable is False
    error = ThrottledError("m", code="slow_down", retryable=False)
    assert (error.code, error.retryable) == ("slow_down", False)


def test_a_wrong_argument_is_a_value_error_to_whoever_does_not_know_us() -> None:
    assert issubclass(InvalidArgumentError, ValueError)


def test_the_signal_between_log_and_engine_is_no_error_of_ours() -> None:
    assert not issubclass(HeadMoved, StateError)
