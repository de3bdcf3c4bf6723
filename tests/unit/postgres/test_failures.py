"""What PostgreSQL's own errors mean to a caller."""

import asyncpg
import pytest
from statepath.errors import InvalidArgumentError, ThrottledError, UnavailableError
from statepath_postgres.failures import state_error, worth_repeating

URL = "postgresql://db:5432/agents?store=default"


@pytest.mark.parametrize(
    "message", ["server conn crashed?", "server closed the connection unexpectedly", "query_wait_timeout"]
)
def test_a_server_that_a_pooler_lost_may_have_committed(message: str) -> None:
    error = state_error(asyncpg.exceptions.ProtocolViolationError(message), URL)
    assert type(error) is UnavailableError
    assert worth_repeating(error)
    assert "pgbouncer=true" not in str(error)


def test_a_pooler_that_refuses_our_settings_is_told_with_what_to_do() -> None:
    refused = asyncpg.exceptions.ProtocolViolationError("unsupported startup parameter: jit")
    with pytest.raises(InvalidArgumentError, match="add pgbouncer=true"):
        raise state_error(refused, URL)


def test_a_transaction_whose_end_the_server_does_not_know_may_have_committed() -> None:
    error = state_error(asyncpg.exceptions.StatementCompletionUnknownError("result is ambiguous"), URL)
    assert type(error) is UnavailableError
    assert worth_repeating(error)


def test_a_socket_that_is_missing_may_come_back_with_its_server() -> None:
    error = state_error(FileNotFoundError(2, "No such file or directory"), URL)
    assert type(error) is UnavailableError
    assert worth_repeating(error)


def test_a_transaction_that_was_rolled_back_had_no_effect() -> None:
    error = state_error(asyncpg.exceptions.DeadlockDetectedError("deadlock detected"), URL)
    assert type(error) is ThrottledError


@pytest.mark.parametrize(
    "refused",
    [
        asyncpg.InterfaceError("the number of query arguments cannot exceed 32767"),
        asyncpg.exceptions._base.DataError("invalid input for query argument $1"),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_no_lost_connection(refused: asyncpg.InterfaceError) -> None:
    error = state_error(refused, URL)
    assert type(error) is InvalidArgumentError
    assert "cannot be reached" not in str(error)


def test_a_connection_that_was_closed_is_a_lost_one() -> None:
    error = state_error(asyncpg.InterfaceError("cannot call Connection.fetch(): connection is closed"), URL)
    assert type(error) is UnavailableError


def test_a_statement_that_somebody_cancelled_is_not_blamed_on_its_time_alone() -> None:
    error = state_error(asyncpg.exceptions.QueryCanceledError("canceling statement due to user request"), URL)
    assert type(error) is ThrottledError
    assert "somebody cancelled it" in str(error)


def test_a_transaction_that_took_the_server_too_long_had_no_effect_and_is_worth_another_try() -> None:
    error = state_error(asyncpg.exceptions.TransactionTimeoutError("terminating connection"), URL)
    assert type(error) is ThrottledError
    assert worth_repeating(error)
    assert "raise that for the role" in str(error)
