"""What several test files share."""

import asyncio

import pytest

try:
    from uvloop import new_event_loop
except ImportError:  # where there is none, logbale runs on asyncio's own
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request):
    """Runs a scenario (a coroutine function) on each event loop that a user's process may have."""

    def run_scenario(scenario):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(scenario())

    return run_scenario
