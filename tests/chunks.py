"""Chunks for tests, and what is in them."""

import msgspec

from logbale.models import Batch, Chunk


def chunk_of(objects, *, sizes=None, source="", start=0):
    """A chunk of these objects; each takes so many bytes of its source."""
    sizes = list(sizes) if sizes is not None else [len(msgspec.json.encode(one)) for one in objects]
    entries = [msgspec.json.encode(one) + b"\n" for one in objects]
    return Chunk(entries, source=source, start=start, end=start + sum(sizes), measure=lambda: sizes)


def batch_of(objects):
    """A batch of these objects, whose source has no cursor."""
    return Batch(b"".join(chunk_of(objects).entries), len(objects), {})


def objects_of(chunk):
    """What its entries decode to."""
    return [msgspec.json.decode(line) for line in chunk.entries]


def messages_of(chunk):
    """Their messages."""
    return [entry["message"] for entry in objects_of(chunk)]


def cursor_after(chunk):
    """Where its source is read to."""
    return chunk.end if chunk.entries else chunk.start
