"""Which store a URL means."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from logbale.errors import ConfigError
from logbale.segment_store import SegmentStore

EXPECTED = "file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"


def store_address(text: str) -> str:
    """The URL as it is kept. Raises ValueError, saying what was expected."""
    parts = urlsplit(text)
    is_file = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    is_bucket = parts.scheme in ("s3", "gs", "az") and bool(parts.hostname)
    if not (is_file or is_bucket) or parts.query or parts.fragment or "\0" in text:
        raise ValueError(EXPECTED)
    if parts.username or parts.password:
        raise ValueError(f"{EXPECTED}; credentials come from the environment")
    return text


def open_store(url: str) -> SegmentStore:
    """The store; that it can be reached is tried now. Raises ConfigError and StorageError."""
    if url.startswith("file:"):
        from logbale.segment_store.directory import DirectoryStore, check_directory

        directory = Path(unquote(urlsplit(url).path))
        check_directory(directory)
        return DirectoryStore(directory)
    try:
        from logbale.segment_store.bucket import BucketStore
    except ImportError as error:
        from logbale.kafka.library import INSTALL

        raise ConfigError(f"{url}: needs the package {error.name}, which is not installed: {INSTALL}") from error
    store = BucketStore(url)
    store.check()
    return store
