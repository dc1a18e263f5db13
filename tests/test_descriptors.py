"""The limit of open files: raised as far as the connections need it, and said where it cannot be."""

import resource

import pytest

from logbale.descriptors import BESIDES, RELAY_SPOOLS, allow_connections, relay_descriptors

NEEDED = 1000 + BESIDES


@pytest.mark.parametrize(
    ("limits", "raised_to", "allowed"),
    [
        ((NEEDED, 4096), None, 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 1000),
        ((256, 4096), (NEEDED, 4096), 1000),
        ((256, resource.RLIM_INFINITY), (NEEDED, resource.RLIM_INFINITY), 1000),
        ((256, 1024), (1024, 1024), 724),
        ((256, 512), (512, 512), 256),
        ((24, 24), (24, 24), 12),
    ],
)
def test_the_soft_limit_rises_as_far_as_it_may(monkeypatch, caplog, limits, raised_to, allowed):
    """Without an administrator's help; with too low a hard limit fewer are let in, and a message says the way out."""
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: now.append(new))
    assert allow_connections(1000) == allowed
    assert now[1:] == ([raised_to] if raised_to else [])
    said = (
        f"MAX_CONNECTIONS=1000 needs 1300 open files, the system allows {now[-1][0]}: more than {allowed} are refused"
    )
    assert (said in caplog.text) is (allowed < 1000)


def test_a_relays_spools_have_their_descriptors_too(monkeypatch, caplog):
    """Two for each that is open and one for each session upstream, beside those of the connections."""
    now = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: now.append(new))
    assert allow_connections(1000, more=relay_descriptors(64)) == 1000
    assert now[1:] == [(NEEDED + 2 * RELAY_SPOOLS + 64, 4096)]
    assert allow_connections(4000, more=relay_descriptors(64)) == 2048
    assert "more than 2048 are refused" in caplog.text
