"""The `run` fixture: a scenario that leaves something open is a failure on either loop, and never a hang."""

import asyncio

import pytest


async def leave_open():
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's own loop says it later
def test_what_a_failing_scenario_left_open_does_not_hide_why_it_failed(run):
    """uvloop's close() once waited for ever for the server, because the warning of it was an error."""

    async def scenario():
        await leave_open()
        raise ValueError("this is why")

    with pytest.raises(ValueError, match="this is why"):
        run(scenario)


@pytest.mark.parametrize("run", ["uvloop"], indirect=True)
def test_what_a_scenario_leaves_open_is_a_failure(run):
    """Where close() can tell; asyncio's own loop tells when the server is collected."""
    with pytest.raises(AssertionError, match="closes what it opens"):
        run(leave_open)
