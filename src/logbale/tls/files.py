"""TLSFiles: what an end's TLS is made of, loaded anew when the files change: wholly, or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from logbale.config import Settings
from logbale.errors import ConfigError
from logbale.tls.material import (
    Certificate,
    ReceiverTLS,
    ShipperTLS,
    receiver_files,
    receiver_tls,
    shipper_files,
    shipper_tls,
)

log = logging.getLogger("logbale")

LOOK_INTERVAL = 10.0
"""Seconds between looks at the files. A change is taken up when they have rested from one look to the next: whoever
renews a certificate writes two files.
"""

T = TypeVar("T")
Signature = list[tuple[int, ...]]


class TLSFiles(Generic[T]):
    """`current` is what the files gave when they were sound last, for connections from then on."""

    def __init__(self, files: Sequence[str], load: Callable[[], T], problem: Callable[[T], str | None]) -> None:
        """Loads; raises what `load` raises. `problem` says why nobody could use what it gave."""
        self._files = list(files)
        self._load = load
        self._problem = problem
        self.refused = 0
        """Loads that gave nothing sound, since the start."""
        self._taken = self._seen = self._signature()
        self.current = load()
        if (why := problem(self.current)) is not None:
            log.error("%s: nobody will accept it; renew it, the new one is taken up by itself", why)
        log.info("TLS: %s", self.current)

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """For a reload of the settings: what the files hold now, changed or not. Raises ConfigError."""
        self._taken = self._seen = self._signature()
        loaded, why = self._try()
        if loaded is None:
            self.refused += 1
            raise ConfigError(why)
        return lambda: self._take(loaded)

    async def watch(self, interval: float = LOOK_INTERVAL) -> None:
        """Loads the files when they have changed, for as long as it runs."""
        while True:
            await asyncio.sleep(interval)
            before, self._seen = self._seen, await asyncio.to_thread(self._signature)
            if self._seen == before and self._seen != self._taken:
                # Before the load: what changes meanwhile is seen as a change at the next look.
                self._taken = self._seen
                loaded, why = await asyncio.to_thread(self._try)
                if loaded is not None:
                    self._take(loaded)
                else:
                    self.refused += 1
                    log.error("the TLS files are refused, what was loaded before stays in use: %s", why)

    def _try(self) -> tuple[T, None] | tuple[None, str]:
        """What the files give, or why they give nothing sound."""
        try:
            loaded = self._load()
            why = self._problem(loaded)
        except ConfigError as error:
            return None, str(error)
        except Exception as error:  # whatever is wrong with new files, what works with the old ones goes on
            return None, f"{type(error).__name__}: {error}"
        return (loaded, None) if why is None else (None, why)

    def _take(self, loaded: T) -> None:
        self.current = loaded
        log.info("the TLS files are loaded anew: %s", loaded)

    def _signature(self) -> Signature:
        """Changes when a file is written, replaced, or reached by another link."""
        found: Signature = []
        for file in self._files:
            try:
                status = os.stat(file)
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError as error:
                found.append((error.errno or 0,))
        return found


def for_receiver(settings: Settings) -> TLSFiles[ReceiverTLS] | None:
    """A receiver's TLS; None where the settings ask for none. Raises ConfigError."""
    if not (files := receiver_files(settings)):
        return None
    return TLSFiles(files, lambda: receiver_tls(settings), lambda loaded: _problem(settings, loaded.certificate))


def for_shipper(settings: Settings) -> TLSFiles[ShipperTLS] | None:
    """A shipper's TLS; None where the settings ask for none. Raises ConfigError."""
    files = shipper_files(settings)
    if not settings.tls_ca_file:
        return None
    return TLSFiles(files, lambda: shipper_tls(settings), lambda loaded: _problem(settings, loaded.certificate))


def _problem(settings: Settings, certificate: Certificate | None) -> str | None:
    why = certificate.problem(time.time()) if certificate is not None else None
    return f"TLS_CERT_FILE={settings.tls_cert_file!r}: {why}" if why is not None else None
