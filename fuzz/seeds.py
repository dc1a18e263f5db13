"""Writes what fuzzing begins from into fuzz/corpus: a few sound inputs for each target. `python -m fuzz.seeds`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import msgspec

from logbale import messages
from logbale.archive.writer import ArchiveWriter
from logbale.compression import CompressionHandler
from logbale.context import ContextCompressor
from logbale.messages import encode_message
from logbale.protocol import Algorithm, Flag, encode_frame
from logbale.session import batch_crc, encode_batch
from logbale.sinks import ReceivedBatch
from logbale.spool import DiskSpool

CORPUS = Path(__file__).parent / "corpus"
TIME = "2026-11-24T20:00:0%d.000000Z"
ENTRIES = [{"timestamp": TIME % n, "level": "INFO", "message": f"number {n} ✓", "n": n} for n in range(3)]
ARRAY = json.dumps(ENTRIES).encode()
LINES = b"".join(json.dumps(entry).encode() + b"\n" for entry in ENTRIES)
ODD = b'[{"a":NaN,"b":1e999,"c":"\\ud800","d":[[{"e":[]}]]},{"t":"\xff"}]'
LEVELS = (
    b'[{"level":"INFO"},{"level":["a"]},{"level":"warn"},{"level":null},{}]'  # once, those before the odd one got lost
)
PRETTY = json.dumps(ENTRIES, indent=1).encode()

CLIENT = [
    messages.Hello(2, "web-1:x", 1, ["zstd"], "logbale/1", "web", name="app"),
    messages.Skip(1, 3, 7, "damaged"),
    messages.Status(msgspec.Raw(b'{"read":7,"delivered":0,"waiting_entries":7,"changes":[[0.5,1,2,"link"]]}')),
    messages.Context(17),
    messages.Ping(1),
    messages.Pong(1),
]
RECEIVER = [
    messages.Welcome(2, 0, 8192, 8192, 10, 7, 17, ["zstd"], [messages.RejectedBatch(3, "no")]),
    messages.Ack(1),
    messages.Reject(1, "no"),
    messages.Busy(5.0, "no space"),
    messages.Error("decode", "batch 1"),
    messages.Goaway("shutting down"),
]


def compressed(algorithm: Algorithm, raw: bytes = ARRAY) -> bytes:
    return CompressionHandler(algorithm, 6, bypass_threshold=0).compress_always(raw)


def sequenced(sequence: int, raw: bytes, algorithm: Algorithm = Algorithm.NONE) -> bytes:
    body = raw if algorithm is Algorithm.NONE else compressed(algorithm, raw)
    return encode_batch(sequence, len(raw), batch_crc(sequence, raw), body, algorithm)


def in_context(first: int) -> bytes:
    context = ContextCompressor(Algorithm.ZSTD, 3, window_log=17)
    frames = b""
    for number in (first, first + 1):
        flags = Flag.CONTINUED | (Flag.NEW_CONTEXT if number == first else 0)
        crc = batch_crc(number, LINES)
        frames += encode_batch(number, len(LINES), crc, context.compress(LINES), Algorithm.ZSTD, context=flags)
    return frames


BASE = b"".join(encode_frame(ARRAY if a is Algorithm.NONE else compressed(a), a) for a in Algorithm)
SESSION = (
    encode_message(messages.Hello(2, "web-1", 1))
    + sequenced(1, LINES)
    + sequenced(2, ARRAY, Algorithm.ZSTD)
    + in_context(3)
    + encode_message(CLIENT[2])
    + encode_message(messages.Skip(5, 6, 2, "damaged"))
)


def archived() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        writer = ArchiveWriter(Path(place), segment_bytes=1 << 30, segment_seconds=1e9, now=lambda: 1_795_550_400.0)
        writer.open()
        for n in (1, 2):
            crc = batch_crc(n, LINES)
            batch = ReceivedBatch(LINES, 3, TIME % 0, TIME % 2, "1.2.3.4:5", "web-1" * (n == 1), n * (n == 1), crc)
            writer.commit([batch])
        writer.close()
        return next(Path(place).glob("*/*.zst*")).read_bytes()


def spooled() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        spool = DiskSpool(Path(place), max_bytes=1 << 30)
        spool.open()
        for n in range(3):
            spool.append([(b'[{"n":%d}]' % n, 1, {"file": {"offset": n}})])
        spool.acknowledge(1)
        spool.note_dropped(1, "damaged", {})
        data = next(Path(place).glob("*.spool")).read_bytes()
        spool.close()
        return data


def write(target: str, *inputs: bytes) -> None:
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("[0-9][0-9]"):  # not what fuzzing has found
        old.unlink()
    for number, data in enumerate(inputs):
        (directory / f"{number:02}").write_bytes(data)


if __name__ == "__main__":
    write("frame_decoder", b"\0\7" + BASE, b"\1\7" + SESSION, b"\2\1" + SESSION, b"\0\1GET / HTTP/1.1\r\n\r\n")
    write("control_messages", *[encode_message(one)[5:] for one in CLIENT + RECEIVER])
    sizes = {a: b"" if a is Algorithm.NONE else compressed(a) for a in Algorithm}
    write(
        "decompression",
        *[bytes([a, 0, 4]) + payload for a, payload in sizes.items()],
        *[bytes([a, 0, 16]) + compressed(a, bytes(1024)) * 2 for a in list(Algorithm)[1:]],
    )
    write("entry_json", ARRAY, LINES, ODD, PRETTY, LEVELS, b"[" + b'{"a":' * 64 + b"1" + b"}" * 64 + b"]")
    write("segment_reader", *[bytes([flag]) + archived() for flag in range(4)])
    write("spool_reader", *[bytes([flag]) + spooled() for flag in range(2)])
    write("connection", b"\1" + BASE, b"\xff" + SESSION, b"\3" + encode_frame(ODD, Algorithm.NONE))
