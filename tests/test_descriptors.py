"""The limit of open files: raised as far as the connections need it, and said where it cannot be."""

import resource

import pytest

from logbale.descriptors import BESIDES, allow_connections

NEEDED = 1000 + BESIDES


@pytest.mark.parametrize(
    ("limits", "raised_to", "is_said"),
    [
        ((NEEDED, 4096), None, False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, False),
        ((256, 4096), (NEEDED, 4096), False),
        ((256, resource.RLIM_INFINITY), (NEEDED, resource.RLIM_INFINITY), False),
        ((256, 512), (512, 512), True),
    ],
)
def test_the_soft_limit_rises_as_far_as_it_may(monkeypatch, caplog, limits, raised_to, is_said):
    """Without an administrator's help; with too low a hard limit the message names the way out."""
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: now.append(new))
    allow_connections(1000)
    assert now[1:] == ([raised_to] if raised_to else [])
    assert ("MAX_CONNECTIONS=1000 needs 1300 open files, the system allows 512" in caplog.text) is is_said
