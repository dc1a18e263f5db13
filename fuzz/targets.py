"""The targets: each takes any bytes, and raises only where logbale breaks a promise.

A target that returns has met nothing but the exceptions that its reader is documented to raise.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fuzz.receiving import Receiving
from logbale.archive import format as archive_format
from logbale.archive import reader, verify
from logbale.archive.recovery import recover
from logbale.compression import MAX_RATIO, RATIO_FREE_BYTES, decompress
from logbale.context import ContextDecompressor
from logbale.errors import DecompressionError, EntryError, ProtocolError, StorageError
from logbale.messages import Hello, decode_from_client, decode_from_receiver, encode_message
from logbale.ndjson import MAX_DEPTH, nests_too_deep, to_ndjson
from logbale.protocol import Algorithm, Flag, Frame, FrameDecoder
from logbale.reports import decode_report
from logbale.session import ReceiverSession, ShipperSession
from logbale.spool import DamagedError, DiskSpool, Skip
from logbale.spool import format as spool_format
from logbale.spool import verify as verify_spool

MAX_FRAME = 64 * 1024
MAX_RAW = 1024 * 1024
MAX_ENTRIES = 1000


def frame_decoder(data: bytes) -> None:
    """Whatever the slices, the same frames and the same error come out, and no more is kept than was fed."""
    if len(data) < 2:
        return
    session, step, stream = (False, True, None)[data[0] % 3], data[1] or 1, data[2:]

    def decoded(slices: list[bytes]) -> tuple[list[Frame], str]:
        decoder, found = FrameDecoder(MAX_FRAME, session=session), []
        try:
            for one in slices:
                decoder.feed(one)
                found += decoder.frames()
                assert decoder.buffered_bytes <= MAX_FRAME + 5 + len(one)
            decoder.close()
        except ProtocolError as error:
            return found, str(error)
        return found, ""

    assert decoded([stream]) == decoded([stream[at : at + step] for at in range(0, len(stream), step)])


def control_messages(data: bytes) -> None:
    """What is understood is understood the same when it is said again; both sessions take it or name the rule."""
    for decode in (decode_from_client, decode_from_receiver):
        for version in (1, 2):
            with contextlib.suppress(ProtocolError):
                message = decode(data, version)
                assert decode(encode_message(message)[5:], 2) == message
    frame = Frame(Flag.CONTROL, data)
    receiving, greeted = ReceiverSession(max_raw=MAX_RAW), ReceiverSession(max_raw=MAX_RAW)
    greeted.receive(Frame(Flag.CONTROL, encode_message(Hello(1, "web-1", 1))[5:]))
    greeted.welcome(last=0, last_crc=0, rejects=[], max_frame=MAX_FRAME, max_entries=0, window_log=17)
    shipping = ShipperSession(stream="web-1", first=1, assigned=5, window_bytes=MAX_FRAME, now=0.0, last_crc={})
    for session in (receiving.receive, greeted.receive, lambda one: shipping.receive(one, 0.0)):
        for _ in range(2):
            with contextlib.suppress(ProtocolError):
                session(frame)
    decode_report(data)


def decompression(data: bytes) -> None:
    """Never more than the limit, alone or in a context, and only DecompressionError otherwise."""
    if len(data) < 3:
        return
    algorithm, raw_bytes, payload = Algorithm(data[0] % 4), int.from_bytes(data[1:3], "big") * 64, data[3:]
    for max_raw, max_ratio in ((MAX_RAW, MAX_RATIO), (raw_bytes, None)):
        with contextlib.suppress(DecompressionError):
            raw = decompress(algorithm, payload, max_raw=max_raw, max_ratio=max_ratio)
            assert len(raw) <= max_raw
            assert max_ratio is None or len(raw) <= max(RATIO_FREE_BYTES, max_ratio * len(payload))
    if algorithm is not Algorithm.NONE:
        context = ContextDecompressor(algorithm, window_log=17)
        with contextlib.suppress(DecompressionError):
            for body in (payload[: len(payload) // 2], payload[len(payload) // 2 :]):
                assert len(context.decompress(body, raw_bytes)) == raw_bytes


def entry_json(data: bytes) -> None:
    """What is accepted is one JSON object a line for a strict parser, no deeper than the limit; else EntryError."""
    for in_session in (False, True):
        for with_levels in (False, True):
            try:
                lines = to_ndjson(data, max_entries=MAX_ENTRIES, in_session=in_session, with_levels=with_levels)
            except EntryError:
                continue
            found = lines.ndjson.decode().split("\n")
            assert found.pop() == ""
            assert len(found) == lines.count <= MAX_ENTRIES
            for line in found:
                assert isinstance(json.loads(line, parse_constant=_refused, parse_int=str), dict)
                assert not nests_too_deep(line.encode()), MAX_DEPTH
            assert not with_levels or sum(lines.levels.values()) == lines.count


def _refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def segment_reader(data: bytes) -> None:
    """Any file is read to its end, verified and recovered; what is damaged is said. Nothing is read twice."""
    if not data:
        return
    day = _directory("archive") / "2026-11-24"
    day.mkdir(exist_ok=True)
    name = "00000001-20261124T200000Z.ndjson.zst"
    path = day / (name + (".open" if data[0] & 1 else ""))
    path.write_bytes(_with_right_crcs(data[1:]) if data[0] & 2 else data[1:])
    try:
        for since in (None, "2026-11-24T20:00:01.000000Z"):
            with contextlib.suppress(StorageError):
                for line in reader.lines(day.parent, since=since, on_damage=lambda _: None):
                    assert b"\n" not in line
        with contextlib.suppress(StorageError):
            list(verify.verify(day.parent))
        with contextlib.suppress(StorageError):
            recovered = recover(day.parent)
            assert recovered.disk_bytes <= len(data)
    finally:
        for file in day.iterdir():
            file.unlink()


def _with_right_crcs(data: bytes) -> bytes:
    """The same, so that what a CRC keeps out comes in: a sound CRC is no sound content."""
    mended, offset = bytearray(data), 0
    while offset < len(mended):
        try:
            length = archive_format.measure(memoryview(mended)[offset:])
            length = archive_format.measure(memoryview(mended)[offset : offset + length])
        except archive_format.NotAFrame:
            break
        if offset + length > len(mended):
            break
        content = bytes(mended[offset + 12 : offset + length])
        mended[offset + 8 : offset + 12] = zlib.crc32(content).to_bytes(4, "little")
        offset += length
    return bytes(mended)


def spool_reader(data: bytes) -> None:
    """Any file is verified, and opened as a spool that goes on: what it holds is read or called damaged."""
    if not data:
        return
    directory = _directory("spool")
    (directory / "00000000000000000001.spool").write_bytes(_with_right_checks(data[1:]) if data[0] & 1 else data[1:])
    try:
        with contextlib.suppress(StorageError, FileNotFoundError):
            list(verify_spool(directory))
        spool = DiskSpool(directory, max_bytes=2**30)
        with contextlib.suppress(StorageError):
            spool.open()
            try:
                for sequence in range(spool.first, min(spool.next_sequence, spool.first + 20)):
                    if not isinstance(spool.item(sequence), Skip):
                        with contextlib.suppress(DamagedError):
                            spool.read(sequence)
                spool.append([(b'[{"n":1}]', 1, {"f": 1})])
            finally:
                spool.close()
    finally:
        _empty(directory)


def _with_right_checks(data: bytes) -> bytes:
    """Likewise for the headers and bodies of a spool's records.

    Positions stay below 2**16: who can forge a spool with a right CRC can as well delete it, and what billions of
    missing batches cost is of no interest.
    """
    mended, offset = bytearray(data), 0
    while (offset := mended.find(spool_format.MAGIC, offset)) >= 0:
        try:
            header = spool_format.parse_header(mended, offset)
        except spool_format.NotARecord:
            offset += 1
            continue
        size, start = spool_format.HEADER_BYTES, offset + spool_format.HEADER_BYTES
        body = bytes(mended[start + header.meta_bytes : offset + header.size])
        fields = list(header)
        fields[1:4] = [number % 2**16 for number in fields[1:4]]
        fields[9] = zlib.crc32(body)
        packed = spool_format._HEADER.pack(spool_format.MAGIC, 0, *fields)[spool_format._CHECKED_FROM :]
        checked = zlib.crc32(bytes(mended[start : start + header.meta_bytes]), zlib.crc32(packed))
        mended[offset : offset + size] = spool_format.MAGIC + checked.to_bytes(4, "little") + packed
        offset += size
    return bytes(mended)


def connection(data: bytes) -> None:
    """A whole receiver behind a connection: what it takes is stored, the rest refused, and nothing stays in flight."""
    _receiving().take(data)


@cache
def _receiving() -> Receiving:
    return Receiving(max_frame_bytes=MAX_FRAME, max_raw_bytes=MAX_RAW, max_batch_entries=MAX_ENTRIES)


def close() -> None:
    """Frees what the targets keep from one input to the next."""
    if _receiving.cache_info().currsize:
        _receiving().close()
    for place in _kept:
        place.cleanup()
    _receiving.cache_clear()
    _directory.cache_clear()
    _kept.clear()


@cache
def _directory(name: str) -> Path:
    memory = Path("/dev/shm")
    place = tempfile.TemporaryDirectory(prefix=f"logbale-fuzz-{name}-", dir=memory if memory.is_dir() else None)
    _kept.append(place)
    return Path(place.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            _empty(path)
            path.rmdir()
        else:
            path.unlink()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        frame_decoder,
        control_messages,
        decompression,
        entry_json,
        segment_reader,
        spool_reader,
        connection,
    )
}
