"""Segments in an object store (S3 and what speaks like it, Google Cloud Storage, Azure), through obstore.

Credentials, region and endpoint come from the environment, by the names that the vendors' own tools use.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import IO, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from logbale.errors import StorageError
from logbale.segment_store import StoredSegment, Strays, last_of

REQUEST_TIMEOUT = timedelta(minutes=5)
"""For one request: a segment of 64 MiB at 2 Mbit/s."""
RETRIES = 3
"""That obstore makes by itself. Whoever calls tries again for as long as it takes, and says so."""
RETRY_TIMEOUT = timedelta(seconds=20)
_SHOWN = 400
"""Characters of an error: it may hold an answer of any length."""
_NO_CREDENTIALS = re.compile(
    "/latest/(api/token|meta-data)|/computeMetadata/|/metadata/identity/|Missing (SecretAccessKey|AccessKeyId)"
    "|Account must be specified"
)
"""In an error: where nothing else gives credentials, the vendor's machine that one may run on is asked for them."""
_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (files in ~/.aws are not read), or give this machine a role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, the file with a service account's key, or give this machine one",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the name alone on a machine with an identity",
}
"""Where credentials come from, by scheme."""


def _is_http_allowed() -> bool:
    """Whether an endpoint without TLS, such as one in a private network, is meant."""
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1", "yes", "on")


class BucketStore:
    """Segments below a prefix of a bucket."""

    def __init__(self, url: str, **options: Any) -> None:
        """`s3://bucket/prefix`, `gs://…`, `az://…`. Raises StorageError where that cannot be one."""
        self.strays = Strays()
        self._url = url.rstrip("/")
        try:
            self._store = from_url(
                self._url,
                # Options given here replace those of the environment, all of them.
                client_options={"timeout": REQUEST_TIMEOUT, "allow_http": _is_http_allowed()},
                retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIMEOUT},
                **options,
            )
        except (BaseError, ValueError) as error:
            raise self._error("use the store", error) from error

    def check(self) -> None:
        """That it can be reached and listed. Raises StorageError likewise."""
        try:
            for _ in obstore.list(self._store, "logbale-looks-whether-it-may"):
                pass
        except (BaseError, OSError) as error:
            raise self._error("list what is there", error) from error

    def last(self, folder: str) -> StoredSegment | None:
        """The highest name, by listing the folder: a request for each thousand segments."""
        try:
            pages = obstore.list(self._store, folder, chunk_size=1000)
            found = (StoredSegment(one["path"], one["size"]) for page in pages for one in page)
            return last_of(folder, found, self.strays)
        except (BaseError, OSError) as error:
            raise self._error(f"list {folder}", error) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        """These bytes of the object; by a range from its start, as Azure has none from the end."""
        try:
            return bytes(obstore.get_range(self._store, name, start=start, length=length))
        except (BaseError, OSError) as error:
            raise self._error(f"read {name}", error) from error

    def put(self, name: str, body: IO[bytes]) -> bool:
        """One conditional request (If-None-Match: *), which the store itself refuses where the name is taken."""
        try:
            obstore.put(self._store, name, body.read(), mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise self._error(f"store {name}", error) from error
        return True

    def _error(self, what: str, error: Exception) -> StorageError:
        reason = " ".join(str(error).split("Debug source")[0].split())[:_SHOWN]
        if _NO_CREDENTIALS.search(reason):
            return StorageError(
                f"{self._url}: there are no credentials for it; set {_SET[self._url.partition(':')[0]]}"
            )
        if reason.endswith("builder error") and not _is_http_allowed():
            return StorageError(
                f"{self._url}: the endpoint is http://, without TLS; where that is meant, set AWS_ALLOW_HTTP=true"
            )
        return StorageError(f"{self._url}: cannot {what}: {reason}; check the address, the credentials and the network")
