"""Every exception that a caller can catch and do better about.

LogbaleError
├── ConfigError        a setting is wrong; exit code 78
├── EntryError         bytes that are not one log entry, or not an array of them
├── ProtocolError      a peer broke the framing; its connection ends
├── DecompressionError a payload does not decompress, or only beyond a limit
├── MessageError       a message in Kafka is not what a receiver of ours writes
├── StorageError       the archive cannot be read or written; exit code 74
│   └── LockedError    another process holds the directory; exit code 78
└── UnavailableError   no receiver took what had to be delivered; exit code 69
    └── NoAnswerError  nobody answers there: advice for a first try, no news to whoever just lost a connection
"""


class LogbaleError(Exception):
    """The root of the tree above."""

    exit_code = 1


class ConfigError(LogbaleError):
    """A setting is wrong: the message names it, its value, what was expected and where it came from."""

    exit_code = 78


class EntryError(LogbaleError):
    """These bytes are not a log entry, or not a JSON array of them. `reason` is `not_entries` or `limit`."""

    def __init__(self, detail: str, *, reason: str = "not_entries") -> None:
        super().__init__(detail)
        self.reason = reason


class ProtocolError(LogbaleError):
    """A peer broke the framing; nothing after this point of its stream can be trusted.

    `reason` is what it is counted under: `protocol`, or the limit that it met: `frame_limit`, `hello_timeout`,
    `frame_timeout`, `frame_memory`, `name_limit`.
    """

    def __init__(self, detail: str, *, reason: str = "protocol") -> None:
        super().__init__(detail)
        self.reason = reason


class DecompressionError(LogbaleError):
    """A payload does not decompress, or only beyond a limit. `reason` is `corrupt` or `limit`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class MessageError(LogbaleError):
    """A message in Kafka is not what a receiver of ours writes. `reason` is `foreign`, `newer` or `malformed`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class StorageError(LogbaleError):
    """The archive cannot be read or written."""

    exit_code = 74


class LockedError(StorageError):
    """Another process holds the directory."""

    exit_code = 78


class UnavailableError(LogbaleError):
    """No receiver took what had to be delivered in time."""

    exit_code = 69


class NoAnswerError(UnavailableError):
    """Nobody answers at this address."""
