"""The content of a gzip file, member after member, a bounded piece at a time; no I/O."""

from __future__ import annotations

import zlib

MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31


class Gunzip:
    """Feed it what the file has, take what that makes. Zeros after the last member are padding."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self._waiting = b""
        self._begun = False
        self._cut_off = False

    @property
    def is_hungry(self) -> bool:
        """Nothing more comes out until something is fed."""
        return not self._waiting and not self._cut_off

    @property
    def is_whole(self) -> bool:
        """The last member has its end."""
        return not self._begun and not self._waiting

    def feed(self, data: bytes) -> None:
        """The next bytes of the file."""
        self._waiting += data

    def take(self, limit: int) -> bytes:
        """At most `limit` bytes of content. Raises zlib.error for what is no gzip."""
        data, self._waiting = self._waiting, b""
        if not self._begun:
            data = data.lstrip(b"\0")
        if not data and not self._cut_off:
            return b""
        self._begun = True
        content = self._decoder.decompress(data, limit)
        # Then zlib may hold more, even where it has taken all of the input.
        self._cut_off = len(content) == limit and not self._decoder.eof
        if self._decoder.eof:
            self._waiting = self._decoder.unused_data
            self._decoder, self._begun = zlib.decompressobj(_GZIP_WINDOW), False
        else:
            self._waiting = self._decoder.unconsumed_tail
        return content
