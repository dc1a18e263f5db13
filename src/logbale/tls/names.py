"""Who a certificate is for, and which streams are theirs. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MARK = ":"
"""Between a name and what makes a stream of it. No name has it, so no name's streams can be another's."""

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,90}")
"""With it and 128 bits in hexadecimal digits, a stream's name has room for more than that."""


def names_of(certificate: Mapping[str, Any]) -> list[str]:
    """The DNS names of a certificate as ssl decodes it, else its common names; none that could not begin a stream."""
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        names = [text for part in certificate.get("subject", ()) for kind, text in part if kind == "commonName"]
    return [name for name in names if is_name(name)]


def is_name(text: str) -> bool:
    """Whether a stream's name can begin so."""
    return _NAME.fullmatch(text) is not None


def owns(names: Iterable[str], stream: str) -> bool:
    """Whether the stream is one of these names, or begins with one and a colon."""
    return any(stream == name or stream.startswith(name + MARK) for name in names)
