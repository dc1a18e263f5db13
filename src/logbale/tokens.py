"""Tokens: which streams a client may write by what it knows. Holds digests, no token; no I/O.

A token without patterns is for every stream. Patterns are those of the shell (`*`, `?`, `[ab]`), case matters.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from fnmatch import fnmatchcase


class Tokens:
    """The tokens that a receiver takes."""

    def __init__(self, tokens: Iterable[tuple[str, list[str]]]) -> None:
        self._known = [(_digest(token), tuple(patterns)) for token, patterns in tokens]

    def __len__(self) -> int:
        return len(self._known)

    @property
    def unbound(self) -> int:
        """How many are for every stream."""
        return sum(not patterns for _, patterns in self._known)

    def refusal(self, token: str | None, stream: str) -> str | None:
        """Why this token does not open this stream: `no_token`, `wrong_token` or `stream`; None where it does.

        Takes as long whichever token it is, and however much of it is right.
        """
        if token is None:
            return "no_token"
        given = _digest(token)
        matches = [hmac.compare_digest(known, given) for known, _ in self._known]
        if not any(matches):
            return "wrong_token"
        bound = [patterns for (_, patterns), is_it in zip(self._known, matches, strict=True) if is_it]
        if any(not patterns or any(fnmatchcase(stream, pattern) for pattern in patterns) for patterns in bound):
            return None
        return "stream"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
