"""The settings: declared once here, read once at start, frozen from then on.

A flag beats the environment, which beats the TOML file, which beats the default. The command line's flags, .env.example
and docs/settings.md are made from the declarations below.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KiB = 1024
MiB = 1024 * KiB

Port = Annotated[int, Meta(ge=0, le=65535)]
Level = Annotated[int, Meta(ge=1, le=9)]
Seconds = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Field names in capitals are the environment variables."""

    # both ends
    server_host: Annotated[
        str, Meta(description="Address the receiver listens on and the shipper connects to; 0.0.0.0 means this host")
    ] = "0.0.0.0"
    server_port: Annotated[Port, Meta(description="TCP port of the receiver; 0 lets the system choose")] = 5000
    metrics_port: Annotated[
        Port, Meta(description="Port for /metrics, /healthz and /readyz, at either end; 0 is off")
    ] = 0
    drain_timeout: Annotated[
        Annotated[float, Meta(ge=0)], Meta(description="Seconds that a stop may take to deliver what is in memory")
    ] = 10.0

    # the shipper: batches
    batch_size: Annotated[Count, Meta(description="Entries a batch")] = 50
    batch_interval: Annotated[
        Seconds, Meta(description="Seconds after its first entry at which a batch leaves, however small")
    ] = 5.0
    batch_max_bytes: Annotated[
        Bytes, Meta(le=32 * MiB, description="Raw bytes at which a batch leaves, however few its entries")
    ] = MiB
    buffer_max_bytes: Annotated[
        Bytes, Meta(description="Raw bytes that may wait in memory for the connection; over it, reading pauses")
    ] = 32 * MiB
    send_timeout: Annotated[
        Seconds, Meta(description="Seconds that one frame may take to leave before the connection counts as dead")
    ] = 30.0

    # the shipper: compression
    compression_algorithm: Annotated[
        Literal["gzip", "zlib", "zstd", "none"], Meta(description="How batches are compressed")
    ] = "gzip"
    compression_level: Annotated[Level, Meta(description="1 (fast) to 9 (small); mapped for zstd")] = 6
    compression_enabled: Annotated[bool, Meta(description="false sends every batch raw")] = True
    bypass_threshold: Annotated[
        Annotated[int, Meta(ge=0)], Meta(description="Batches below this many raw bytes are sent raw")
    ] = 256
    adaptive_enabled: Annotated[bool, Meta(description="Let the CPU load choose the compression level")] = False
    adaptive_min_level: Annotated[Level, Meta(description="Level when the CPU is busy")] = 1
    adaptive_max_level: Annotated[Level, Meta(description="Level when the CPU is idle")] = 9
    adaptive_check_interval: Annotated[Seconds, Meta(description="Seconds between CPU readings")] = 5.0

    # the shipper: the generator
    log_rate: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)], Meta(description="Entries a second from the generator")
    ] = 100
    run_time: Annotated[
        Annotated[float, Meta(ge=0)], Meta(description="Seconds that the generator runs; 0 is until stopped")
    ] = 30

    # the receiver
    sink: Annotated[str, Meta(description="Where entries go: archive, console, null; several with commas")] = "archive"
    archive_dir: Annotated[str, Meta(description="Directory of the archive")] = "archive"
    archive_segment_bytes: Annotated[Bytes, Meta(description="File size at which a segment is sealed")] = 64 * MiB
    archive_segment_seconds: Annotated[Seconds, Meta(description="Age at which a segment is sealed")] = 3600
    max_frame_bytes: Annotated[
        Bytes, Meta(le=0xFFFFFFFF, description="Longest frame accepted, in bytes on the wire")
    ] = 8 * MiB
    max_raw_bytes: Annotated[Bytes, Meta(description="Longest batch accepted, in bytes after decompression")] = 32 * MiB
    max_batch_entries: Annotated[Count, Meta(description="Most entries accepted in one batch")] = 100_000
    max_in_flight_bytes: Annotated[
        Bytes, Meta(description="Bytes received and not yet stored at which the receiver stops reading")
    ] = 256 * MiB
    max_connections: Annotated[Count, Meta(description="Most connections at a time")] = 16_384

    # the dashboard
    dashboard_enabled: Annotated[bool, Meta(description="Serve the page with live numbers")] = False
    dashboard_host: Annotated[str, Meta(description="Address of the dashboard and of METRICS_PORT")] = "127.0.0.1"
    dashboard_port: Annotated[Port, Meta(description="Port of the dashboard; 0 lets the system choose")] = 8080
