"""How many files this process may have open: as many as its connections need, as far as the system lets it."""

from __future__ import annotations

import contextlib
import logging

log = logging.getLogger("logbale")

BESIDES = 300
"""Descriptors beside those of connections: two HTTP servers with 128 each, the archive, libraries."""

RELAY_SPOOLS = 1024
"""Spools of a relay that stay open, with two descriptors each."""


def relay_descriptors(connections: int) -> int:
    """What a relay needs that has so many sessions upstream."""
    return 2 * RELAY_SPOOLS + connections


def allow_connections(connections: int, *, more: int = 0) -> int:
    """Raises the soft limit where so many connections need it; how many there may be, and it says so if that is fewer.

    `more` are descriptors that something else needs.

    Beyond that the system would leave clients waiting, unheard, and the archive without a descriptor for its next file.
    """
    try:
        import resource
    except ImportError:  # not a Unix: there is no such limit
        return connections
    besides = BESIDES + more
    needed = connections + besides
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has a further limit, which it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return connections
    fewer = min(connections, max(soft - besides, soft // 2))
    log.warning(
        "MAX_CONNECTIONS=%d needs %d open files, the system allows %d: more than %d are refused; raise the hard limit "
        "(ulimit -Hn), or lower MAX_CONNECTIONS",
        connections,
        needed,
        soft,
        fewer,
    )
    return fewer
