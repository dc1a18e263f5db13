"""The declarations: every setting with its default, what it may be, and what it means.

The command line's flags, .env.example and docs/settings.md are made from them (fields.py reads them).
"""

# Without `from __future__ import annotations`: they are read at every start, and as texts that takes 8 ms more.
from ipaddress import ip_network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from logbale.config.addresses import host_name, split_address, split_addresses
from logbale.config.secret import Secret
from logbale.kafka.address import EXPECTED, SCHEME, kafka_topic
from logbale.segment_store.opening import EXPECTED as STORES
from logbale.segment_store.opening import store_address

KiB = 1024
MiB = 1024 * KiB
TiB = 1024 * 1024 * MiB

SINKS = ("archive", "console", "null")
SINKS_ALLOWED = f"archive, console, null, logbale://HOST:PORT, {EXPECTED}"
DURABLE_SINKS = {"archive", "null"}
RELAY = "logbale://"
"""Begins the sink that is another receiver."""


# What values may be. A check takes the text, returns it as it is kept, and raises ValueError with what was expected.


def sink_names(text: str) -> list[str]:
    """The sinks that a value of SINK names, in its order. Raises ValueError, saying what was expected."""
    names: list[str] = []
    for part in map(str.strip, text.split(",")):
        if names and names[-1].startswith(SCHEME) and "/" not in names[-1].removeprefix(SCHEME):
            names[-1] += f",{part}"  # a comma between brokers
        else:
            names.append(part)
    topics = [name for name in names if name.startswith(SCHEME)]
    for topic in topics:
        kafka_topic(topic)
    relays = [name for name in names if name.startswith(RELAY)]
    for relay in relays:
        relay_address(relay)
    if not set(names) <= {*SINKS, *topics, *relays}:
        raise ValueError(f"archive, console, null, logbale://HOST:PORT or {EXPECTED}, several with commas")
    if len(names) > len(set(names)):
        raise ValueError("each sink once")
    if len({*DURABLE_SINKS, *topics, *relays}.intersection(names)) > 1:
        raise ValueError("one of archive, null, logbale://… and kafka://…: one sink decides what counts as stored")
    return names


def relay_address(name: str) -> tuple[str, int]:
    """Host and port of `logbale://HOST:PORT`; 5000 where no port is given. Raises ValueError likewise."""
    expected = "logbale://HOST:PORT, an IPv6 address in brackets"
    try:
        host, port = split_address(name.removeprefix(RELAY).rstrip("/"))
    except ValueError:
        raise ValueError(expected) from None
    digits = port or "5000"
    if not host or not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= 65535:
        raise ValueError(expected)
    return host_name(host), int(digits)


def _sinks(text: str) -> str:
    return ",".join(sink_names(text))


def _addresses(text: str) -> str:
    split_addresses(text, "", 1)
    return text


def _directory(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("the path of a directory")
    return text


def _networks(text: str) -> str:
    expected = "addresses or networks such as 10.0.0.0/24, several with commas, none of them everybody"
    for part in text.split(","):
        try:
            network = ip_network(part.strip(), strict=False)
        except ValueError:
            raise ValueError(expected) from None
        if not network.prefixlen:
            raise ValueError(expected)
    return text


def _topic(text: str) -> str:
    if text:
        kafka_topic(text)
    return text


def _store(text: str) -> str:
    return store_address(text) if text else text


def _group(text: str) -> str:
    if not text or len(text) > 249 or not text.isprintable():
        raise ValueError("a name of 1 to 249 characters")
    return text


Port = Annotated[int, Meta(ge=0, le=65535, extra={"metavar": "PORT"})]
Level = Annotated[int, Meta(ge=1, le=9)]
Seconds = Annotated[float, Meta(gt=0, extra={"metavar": "SECONDS"})]
Bytes = Annotated[int, Meta(ge=1, le=TiB, extra={"metavar": "BYTES"})]
_BatchBytes = Annotated[int, Meta(ge=1, le=32 * MiB, extra={"metavar": "BYTES"})]
_FrameBytes = Annotated[int, Meta(ge=1, le=0xFFFFFFFF, extra={"metavar": "BYTES"})]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Host = Annotated[str, Meta(extra={"check": host_name, "allowed": "a host name or an IP address", "metavar": "HOST"})]
Sinks = Annotated[str, Meta(extra={"check": _sinks, "allowed": SINKS_ALLOWED, "metavar": "NAMES"})]
Addresses = Annotated[
    str,
    Meta(
        extra={
            "check": _addresses,
            "allowed": "HOST or HOST:PORT, several with commas, or empty",
            "metavar": "ADDRESSES",
            "address": True,
            "flags": ("--to",),
            "commands": ("ship",),
        }
    ),
]
Directory = Annotated[str, Meta(extra={"check": _directory, "allowed": "a path", "metavar": "DIR"})]
File = Annotated[str, Meta(extra={"allowed": "a path, or empty", "metavar": "FILE"})]
SecretText = Annotated[str, Meta(extra={"check": Secret, "secret": True})]  # nosec B105  # says of what kind it is
"""From the environment alone: command lines are seen by everybody, and settings files are passed around."""


class Derived(msgspec.Struct, frozen=True):
    """Another default, which holds where another setting has a certain value and nothing sets this one."""

    default: object
    setting: str
    """The other's field name."""
    value: object
    """What it has to be."""
    reason: str
    instead: tuple[str, object, str] | None = None
    """Another reason, where a third setting's field has a certain value: that field, the value, the reason."""

    def why(self, settings: object) -> str:
        """The reason that is true with these settings."""
        if self.instead is not None:
            name, value, reason = self.instead
            if getattr(settings, name) == value:
                return reason
        return self.reason

    @property
    def condition(self) -> str:
        """`SESSION_MODE=on`."""
        return f"{self.setting.upper()}={self.value}"


# The groups, in the order of the documents, and the commands whose flags theirs are.
_BOTH = Meta(extra={"group": "Both ends", "commands": ("receive", "ship")})
_EVERY_END = {"commands": ("receive", "archive", "ship")}
_TLS = Meta(extra={"group": "TLS", "commands": ("receive", "archive", "ship")})
_BATCHES = Meta(extra={"group": "The shipper: batches", "commands": ("ship",)})
_COMPRESSION = Meta(extra={"group": "The shipper: compression", "commands": ("ship",)})
_GENERATOR = Meta(extra={"group": "The shipper: the generator", "commands": ("ship",)})
_RECEIVER = Meta(extra={"group": "The receiver", "commands": ("receive",)})
_BOTH_ARCHIVES = {"commands": ("receive", "archive")}
_ARCHIVER = Meta(extra={"group": "The archiver", "commands": ("archive",)})
_DASHBOARD = Meta(extra={"group": "The dashboard", "commands": ("receive",)})
_ACCESS = Meta(extra={"group": "Who may ship", "commands": ("receive",)})


# What SIGHUP changes while the process runs; a setting with neither of them waits for a restart.
_LIVE = Meta(extra={"live": "at once"})
_NEW_CONNECTIONS = Meta(extra={"live": "new connections"})


def _flags(*names: str) -> dict[str, tuple[str, ...]]:
    """Flags beside the one that the setting's name makes, or in its place where it has none."""
    return {"flags": names}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Field names in capitals are the environment variables.

    Made by load(), which checks each value and knows the defaults that others make: zstd in a session.
    """

    server_host: Annotated[
        Host,
        _BOTH,
        Meta(
            description="Address the receiver listens on and the shipper connects to; 0.0.0.0 means this host",
            extra={"address": True},
        ),
    ] = "0.0.0.0"
    server_port: Annotated[
        Port,
        _BOTH,
        Meta(description="TCP port of the receiver; 0 lets the system choose", extra={"address": True}),
    ] = 5000
    receivers: Annotated[
        Addresses,
        _BOTH,
        Meta(description="Several receivers in place of SERVER_HOST and SERVER_PORT; a stream's name chooses its own"),
    ] = ""
    metrics_port: Annotated[
        Port,
        _BOTH,
        Meta(description="Port for /metrics, /healthz and /readyz, at either end; 0 is off", extra=_EVERY_END),
    ] = 0
    # Not LOG_LEVEL: many programs read that, with words that are not ours.
    message_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _BOTH,
        _LIVE,
        Meta(description="Messages from here on; -v is debug, -q warning", extra=_EVERY_END | _flags("--log-level")),
    ] = "info"
    drain_timeout: Annotated[
        Annotated[float, Meta(ge=0, extra={"metavar": "SECONDS"})],
        _BOTH,
        _LIVE,
        Meta(description="Seconds that a stop may take to deliver what was read", extra=_EVERY_END),
    ] = 10.0

    max_json_depth: Annotated[
        Annotated[int, Meta(ge=1, le=256)],
        _BOTH,
        Meta(
            description="Levels of an entry's JSON: a receiver refuses more, a shipper makes text of it; alike at both"
        ),
    ] = 64

    tls_cert_file: Annotated[
        File,
        _TLS,
        Meta(description="Certificate and chain in PEM: turns TLS on at a receiver; a shipper shows its own if asked"),
    ] = ""
    tls_key_file: Annotated[
        File, _TLS, Meta(description="Its key, without a passphrase; empty: in TLS_CERT_FILE too")
    ] = ""
    tls_ca_file: Annotated[
        File,
        _TLS,
        Meta(
            description="CAs that may have signed the receiver's certificate, or system; at a shipper it turns TLS on",
            extra={"allowed": "a path, empty or system", "commands": ("ship", "receive", "tail", "top")},
        ),
    ] = ""
    tls_client_ca_file: Annotated[
        File,
        _TLS,
        Meta(description="CAs whose clients the receiver takes: it takes no others", extra={"commands": ("receive",)}),
    ] = ""
    tls_bind_streams: Annotated[
        bool,
        _TLS,
        _NEW_CONNECTIONS,
        Meta(
            description="A client writes only streams that are called as its certificate is: NAME, or NAME:…",
            extra={"commands": ("receive",)},
        ),
    ] = False

    batch_size: Annotated[
        Count,
        _BATCHES,
        _LIVE,
        Meta(description="Entries a batch; in a session more under backlog, up to BATCH_MAX_BYTES"),
    ] = 50
    batch_interval: Annotated[
        Seconds,
        _BATCHES,
        _LIVE,
        Meta(description="Seconds after its first entry at which a batch leaves, however small"),
    ] = 5.0
    batch_max_bytes: Annotated[
        _BatchBytes, _BATCHES, _LIVE, Meta(description="Raw bytes at which a batch leaves, however few its entries")
    ] = MiB
    max_line_bytes: Annotated[
        Annotated[int, Meta(ge=KiB, le=4 * MiB, extra={"metavar": "BYTES"})],
        _BATCHES,
        Meta(description="Longest line that is read whole; a longer one becomes several entries, which is counted"),
    ] = MiB
    buffer_max_bytes: Annotated[
        Bytes,
        _BATCHES,
        _LIVE,
        Meta(description="Raw bytes that may wait in memory for the connection; over it, reading pauses"),
    ] = 32 * MiB
    send_timeout: Annotated[
        Seconds,
        _BATCHES,
        _LIVE,
        Meta(description="Seconds that one frame may take to leave before the connection counts as dead"),
    ] = 30.0

    session_mode: Annotated[
        Literal["on", "off"],
        _BATCHES,
        Meta(description="on: acknowledged and stored once; off: the base protocol, best effort"),
    ] = "on"
    return_interval: Annotated[
        Seconds,
        _BATCHES,
        _LIVE,
        Meta(description="With several receivers: seconds between looks at whether a better one than this is back"),
    ] = 30.0
    batch_linger: Annotated[
        Annotated[float, Meta(ge=0, extra={"metavar": "SECONDS"})],
        _BATCHES,
        _LIVE,
        Meta(description="In a session with nothing unacknowledged: seconds after its first entry a batch leaves"),
    ] = 0.2
    window_bytes: Annotated[
        Bytes,
        _BATCHES,
        _NEW_CONNECTIONS,
        Meta(description="Wire bytes that may be unacknowledged in a session; one batch always may"),
    ] = 2 * MiB

    spool_dir: Annotated[
        str,
        _BATCHES,
        Meta(
            description="Directory of the spools; empty: /var/lib/logbale/spool, for users "
            "~/.local/state/logbale/spool; off: memory",
            extra={"allowed": "a path, empty or off", "metavar": "DIR"},
        ),
    ] = ""
    spool_max_bytes: Annotated[
        Annotated[int, Meta(ge=MiB, le=TiB, extra={"metavar": "BYTES"})],
        _BATCHES,
        _LIVE,
        Meta(
            description="Bytes that a spool may take on disk; at a relay, all of them together",
            extra={"commands": ("ship", "receive")},
        ),
    ] = 1024 * MiB
    spool_policy: Annotated[
        Literal["block", "drop_oldest", "drop_newest"],
        _BATCHES,
        _LIVE,
        Meta(description="What a full spool does: pause reading, or drop the oldest or newest entries and count them"),
    ] = "block"

    compression_context: Annotated[
        Literal["stream", "batch"],
        _COMPRESSION,
        _NEW_CONNECTIONS,
        Meta(description="In a session: stream goes on from batch to batch, batch compresses each on its own"),
    ] = "stream"
    compression_algorithm: Annotated[
        Literal["gzip", "zlib", "zstd", "none"],
        _COMPRESSION,
        Meta(
            description="How batches are compressed",
            extra={
                "flags": ("--algorithm",),
                # Both by decision 0006: per batch, level 2 is 10.20 at 888 MB a CPU second, gzip 6 10.27 at 272.
                "derived": Derived(
                    "zstd",
                    "session_mode",
                    "on",
                    "it goes on from batch to batch, far smaller than gzip",
                    (
                        "compression_context",
                        "batch",
                        "each batch on its own is as small at level 2 as by gzip 6, for a third of the CPU",
                    ),
                ),
            },
        ),
    ] = "gzip"
    compression_level: Annotated[
        Level,
        _COMPRESSION,
        _LIVE,
        Meta(description="1 (fast) to 9 (small), whatever the algorithm", extra=_flags("--level")),
    ] = 6
    compression_enabled: Annotated[bool, _COMPRESSION, Meta(description="false sends every batch raw")] = True
    bypass_threshold: Annotated[
        Annotated[int, Meta(ge=0, le=TiB, extra={"metavar": "BYTES"})],
        _COMPRESSION,
        _LIVE,
        Meta(description="Batches below this many raw bytes are sent raw"),
    ] = 256
    adaptive_enabled: Annotated[
        bool, _COMPRESSION, _LIVE, Meta(description="Let what is observed choose the compression level")
    ] = False
    adaptive_policy: Annotated[
        Literal["balanced", "cpu"],
        _COMPRESSION,
        _LIVE,
        Meta(description="By what: balanced weighs backlog, link and CPU; cpu looks at the CPU load alone"),
    ] = "balanced"
    adaptive_min_level: Annotated[
        Level, _COMPRESSION, _LIVE, Meta(description="Lowest level; cpu's when the CPU is busy")
    ] = 1
    adaptive_max_level: Annotated[
        Level, _COMPRESSION, _LIVE, Meta(description="Highest level; cpu's when the CPU is idle")
    ] = 9
    adaptive_check_interval: Annotated[
        Seconds, _COMPRESSION, _LIVE, Meta(description="Seconds between decisions; balanced looks sooner while behind")
    ] = 5.0

    log_rate: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)],
        _GENERATOR,
        Meta(description="Entries a second from the generator", extra=_flags("--rate")),
    ] = 100
    run_time: Annotated[
        Annotated[float, Meta(ge=0, extra={"metavar": "SECONDS"})],
        _GENERATOR,
        Meta(description="Seconds that the generator runs; 0 is until stopped"),
    ] = 30

    sink: Annotated[
        Sinks, _RECEIVER, Meta(description="Where entries go; several with commas, one of them the one that stores")
    ] = "archive"
    kafka_format: Annotated[
        Literal["batch", "ndjson"],
        _RECEIVER,
        Meta(
            description="What a message in Kafka is: a batch, fit to be archived once, or an entry, for others",
            extra=_flags("--format"),
        ),
    ] = "batch"
    kafka_config_file: Annotated[
        File,
        _RECEIVER,
        Meta(
            description="File with librdkafka's settings, name=value lines: TLS and passwords for the brokers",
            extra=_flags("--kafka-config") | _BOTH_ARCHIVES,
        ),
    ] = ""
    archive_dir: Annotated[
        Directory, _RECEIVER, Meta(description="Directory of the archive", extra=_flags("--archive"))
    ] = "archive"
    archive_segment_bytes: Annotated[
        Bytes, _RECEIVER, _LIVE, Meta(description="File size at which a segment is sealed", extra=_BOTH_ARCHIVES)
    ] = 64 * MiB
    archive_segment_seconds: Annotated[
        Seconds, _RECEIVER, _LIVE, Meta(description="Age at which a segment is sealed", extra=_BOTH_ARCHIVES)
    ] = 3600
    archive_retention_seconds: Annotated[
        Annotated[float, Meta(ge=0, extra={"metavar": "SECONDS"})],
        _RECEIVER,
        _LIVE,
        Meta(description="Age at which sealed segments are deleted; 0 is never"),
    ] = 0
    archive_retention_bytes: Annotated[
        Annotated[int, Meta(ge=0, extra={"metavar": "BYTES"})],
        _RECEIVER,
        _LIVE,
        Meta(description="Size of the archive on disk over which the oldest sealed segments are deleted; 0 is never"),
    ] = 0
    relay_dir: Annotated[
        Directory, _RECEIVER, Meta(description="Directory of a relay's spools: of a sink logbale://HOST:PORT")
    ] = "relay"
    relay_connections: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)],
        _RECEIVER,
        _LIVE,
        Meta(description="Most sessions of a relay with its receiver at a time; more streams take turns"),
    ] = 64
    relay_cert_file: Annotated[
        File, _RECEIVER, Meta(description="Certificate and chain in PEM that a relay shows its receiver if asked")
    ] = ""
    relay_key_file: Annotated[
        File, _RECEIVER, Meta(description="Its key, without a passphrase; empty: in RELAY_CERT_FILE too")
    ] = ""
    marks_days: Annotated[
        Annotated[float, Meta(gt=0, extra={"metavar": "DAYS"})],
        _RECEIVER,
        _LIVE,
        Meta(
            description="Days of silence after which a stream is forgotten; what its shipper repeats then is doubled",
            extra=_BOTH_ARCHIVES,
        ),
    ] = 30
    max_streams: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)],
        _RECEIVER,
        _LIVE,
        Meta(description="Most streams of sessions that are known at a time; new ones beyond it are refused"),
    ] = 100_000
    max_frame_bytes: Annotated[
        _FrameBytes, _RECEIVER, _NEW_CONNECTIONS, Meta(description="Longest frame accepted, in bytes on the wire")
    ] = 8 * MiB
    max_raw_bytes: Annotated[
        Bytes, _RECEIVER, _NEW_CONNECTIONS, Meta(description="Longest batch accepted, in bytes after decompression")
    ] = 32 * MiB
    max_ratio: Annotated[
        Count,
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Most raw bytes for each byte of a base frame that gives more than 4 MiB"),
    ] = 256
    max_members: Annotated[
        Count,
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Most compressed streams (gzip members, zstd frames) in one frame"),
    ] = 16
    max_window_bytes: Annotated[
        Annotated[int, Meta(ge=2 * MiB, le=128 * MiB, extra={"metavar": "BYTES"})],
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Largest window of a zstd frame: what its decoder keeps. Ours have 2 MiB at most"),
    ] = 8 * MiB
    max_hello_bytes: Annotated[
        Annotated[int, Meta(ge=4 * KiB, le=64 * KiB, extra={"metavar": "BYTES"})],
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Longest hello, and message of a session; a shipper's take up to 4 KiB"),
    ] = 4 * KiB
    max_name_bytes: Annotated[
        Annotated[int, Meta(ge=33, le=128, extra={"metavar": "BYTES"})],
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Longest name of a stream; a shipper makes up its host's name and 33 bytes more, 97 at most"),
    ] = 128
    max_batch_entries: Annotated[
        Count, _RECEIVER, _NEW_CONNECTIONS, Meta(description="Most entries accepted in one batch")
    ] = 100_000
    max_in_flight_bytes: Annotated[
        Bytes,
        _RECEIVER,
        _LIVE,
        Meta(description="Bytes received and not yet stored at which the receiver stops reading"),
    ] = 256 * MiB
    context_memory: Annotated[
        Annotated[int, Meta(ge=0, le=TiB, extra={"metavar": "BYTES"})],
        _RECEIVER,
        Meta(description="Bytes that the sessions' contexts may take: many sessions get smaller windows; 0 is none"),
    ] = 1600 * MiB
    max_connections: Annotated[Count, _RECEIVER, _LIVE, Meta(description="Most connections at a time")] = 16_384
    max_connections_per_address: Annotated[
        Count,
        _RECEIVER,
        _LIVE,
        Meta(description="Most connections of one address that sent no hello or sound batch yet; loopback is exempt"),
    ] = 64
    hello_timeout: Annotated[
        Seconds,
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Seconds that a TLS handshake, a balancer's header and a hello may take, each"),
    ] = 5.0
    frame_timeout: Annotated[
        Seconds,
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Seconds that any frame may take to arrive, whatever its length"),
    ] = 30.0
    frame_min_rate: Annotated[
        Bytes,
        _RECEIVER,
        _NEW_CONNECTIONS,
        Meta(description="Bytes a second: a frame has its length divided by this in addition"),
    ] = 2 * KiB

    archive_topic: Annotated[
        str,
        _ARCHIVER,
        Meta(
            description="The topic that is archived; `logbale archive` takes it as its argument too",
            extra={"check": _topic, "allowed": EXPECTED, "metavar": "URL"},
        ),
    ] = ""
    archive_to: Annotated[
        str,
        _ARCHIVER,
        Meta(
            description="Where its segments go",
            extra={"check": _store, "allowed": STORES, "metavar": "URL", "flags": ("--to",)},
        ),
    ] = ""
    archive_group: Annotated[
        str,
        _ARCHIVER,
        Meta(
            description="Consumer group whose members share the partitions",
            extra={"check": _group, "allowed": "a name", "metavar": "NAME", "flags": ("--group",)},
        ),
    ] = "logbale-archive"

    dashboard_enabled: Annotated[bool, _DASHBOARD, Meta(description="Serve the page with live numbers")] = False
    dashboard_host: Annotated[
        Host, _DASHBOARD, Meta(description="Address of the dashboard and of METRICS_PORT", extra=_EVERY_END)
    ] = "127.0.0.1"
    dashboard_tls: Annotated[
        Literal["auto", "on", "off"],
        _DASHBOARD,
        Meta(
            description="TLS, with TLS_CERT_FILE; auto: for the page where it is off loopback; on: METRICS_PORT too",
            extra=_EVERY_END,
        ),
    ] = "auto"
    latency_target: Annotated[
        Annotated[float, Meta(ge=0, extra={"metavar": "SECONDS"})],
        _DASHBOARD,
        _LIVE,
        Meta(
            description="Seconds to durable (the 99th percentile of a minute) over which an alarm is raised; 0: never"
        ),
    ] = 1.0
    dashboard_port: Annotated[Port, _DASHBOARD, Meta(description="Port of the dashboard; 0 lets the system choose")] = (
        8080
    )

    dashboard_max_connections: Annotated[
        Count,
        _DASHBOARD,
        Meta(
            description="Most connections at a time to the page, and to METRICS_PORT",
            extra={"commands": ("receive", "ship")},
        ),
    ] = 128
    dashboard_max_viewers: Annotated[
        Count, _DASHBOARD, Meta(description="Most viewers of the live tail at a time; together they take 2 % of a core")
    ] = 20
    dashboard_password_file: Annotated[
        File,
        _DASHBOARD,
        Meta(description="File with the password of the dashboard, one line; `tail` and `top` take it from there too"),
    ] = ""
    dashboard_open: Annotated[
        bool,
        _DASHBOARD,
        Meta(
            description="Without a password off loopback too: something else decides who reaches it",
            extra={"flags": ("--dashboard-open/--no-dashboard-open",)},
        ),
    ] = False

    tokens_file: Annotated[
        File, _ACCESS, Meta(description="File with the tokens that may ship, a line each: TOKEN [STREAM-PATTERN…]")
    ] = ""
    tokens: Annotated[
        SecretText,
        _ACCESS,
        Meta(
            description="The same in a variable, lines separated by semicolons",
            extra={"allowed": "such lines, or empty"},
        ),
    ] = Secret()
    token_file: Annotated[
        File,
        _ACCESS,
        Meta(
            description="File with the token that a shipper shows, one line; a relay, to its receiver",
            extra={"commands": ("ship", "receive")},
        ),
    ] = ""
    token: Annotated[
        SecretText,
        _ACCESS,
        Meta(description="The same in a variable", extra={"allowed": "a token, or empty"}),
    ] = Secret()
    base_clients: Annotated[
        Literal["auto", "allow", "refuse"],
        _ACCESS,
        Meta(description="Clients without a session, which have no token; auto: refuse them where there are tokens"),
    ] = "auto"
    lockout_failures: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)],
        _ACCESS,
        Meta(description="Wrong tokens or passwords within a minute that lock an address out; 0 is never"),
    ] = 10
    lockout_seconds: Annotated[Seconds, _ACCESS, Meta(description="For how long")] = 60

    proxy_from: Annotated[
        str,
        _ACCESS,
        Meta(
            description="Balancers, by address or network, whose PROXY protocol v2 header names the client",
            extra={"check": _networks, "allowed": "addresses or networks, several with commas", "metavar": "NETWORKS"},
        ),
    ] = ""

    @property
    def receiver_addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports that a shipper may connect to, as they were given."""
        if not self.receivers:
            return [(self.server_host, self.server_port)]
        return split_addresses(self.receivers, self.server_host, self.server_port)

    @property
    def has_tokens(self) -> bool:
        """A receiver takes only who has a token."""
        return bool(self.tokens_file or self.tokens)

    @property
    def has_token(self) -> bool:
        """A shipper shows one."""
        return bool(self.token_file or self.token)

    @property
    def is_observed(self) -> bool:
        """Somebody may look at the numbers: what costs something is counted then."""
        return self.dashboard_enabled or self.metrics_port > 0
