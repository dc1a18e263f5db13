"""What the sources promise: an exact rate, a stream read to its end, files followed through what happens to files."""

import asyncio
import contextlib
import errno
import os
import threading

import msgspec
import pytest
from chunks import cursor_after, messages_of, objects_of

from logbale.errors import StorageError
from logbale.sources import generator
from logbale.sources.generator import LogGenerator
from logbale.sources.stdin import StdinSource
from logbale.sources.tail import TailSource
from logbale.sources.tail import file as tail_file
from logbale.sources.tail.discovery import service_of

# names


@pytest.mark.parametrize(
    "name",
    [
        "web.log", "web.log.1", "web.log.2.gz", "web.log.gz", "web.log-20261124", "web.log-20261124.gz",
        "web.log-20261124-1764000000", "web.log.2026-11-24", "web.log.2026-11-24_08", "web-20261124.log",
        "web-2026-11-24.log", "web.log.old", "web", "web.1", "web.log-2026112408.xz",
    ],
)  # fmt: skip
def test_what_rotation_adds_is_no_part_of_a_service(name):
    """A log is one service, whichever of its files an entry comes from."""
    assert service_of(f"/var/log/{name}") == "web"


@pytest.mark.parametrize(
    ("name", "service"),
    [("redis-6379.log", "redis-6379"), ("web-2.log", "web-2"), ("20261124", "20261124"), ("-20261124", "-20261124"),
     (".gz", ".gz"), (".1", ".1"), (".log", ".log"), ("1", "1"), ("2026-11-24.log", "2026-11-24")],
)  # fmt: skip
def test_what_only_looks_like_rotation_stays(name, service):
    """A number before the extension may well be a log of its own; and nothing is left without a name."""
    assert service_of(f"/var/log/{name}") == service


# the generator


class Time:
    """A clock that a sleep moves, and that oversleeps."""

    def __init__(self, oversleep=0.0):
        self.now = 0.0
        self.oversleep = oversleep

    def clock(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds + self.oversleep


def generate(rate, run_time, oversleep=0.0, seed=1):
    time = Time(oversleep)
    source = LogGenerator(rate, run_time, seed=seed, now=lambda: 1000.0, clock=time.clock, sleep=time.sleep)

    async def collect():
        return [(time.now, chunk) async for chunk in source.chunks()]

    return asyncio.run(collect())


@pytest.mark.parametrize(("rate", "run_time"), [(100, 30), (0.5, 10), (7, 3), (200_000, 0.5)])
@pytest.mark.parametrize("oversleep", [0.0, 0.013])
def test_the_rate_is_exact_over_time(rate, run_time, oversleep):
    """No drift: at any moment floor(elapsed * rate) entries were made, however long the sleeps took."""
    made = 0
    for now, chunk in generate(rate, run_time, oversleep):
        made += len(chunk.entries)
        due = min(int(now * rate + 1e-9), round(rate * run_time))
        assert made == due or (made < due and len(chunk.entries) == generator.MAX_CHUNK)
    assert made == round(rate * run_time)


def test_a_seed_makes_a_run_reproducible():
    """The same seed gives the same entries, another one others."""
    first, second, other = (
        [msgspec.json.encode(LogGenerator(100, 0, seed=seed).take(500, start=0.0))] for seed in (1, 1, 2)
    )
    assert first == second != other


def test_times_are_those_of_the_schedule():
    """To the microsecond, and the same however many are made at once."""
    source = LogGenerator(3, 0, seed=1)
    times = [
        entry.timestamp for first, count in ((0, 2), (2, 5)) for entry in source.take(count, start=0.5, first=first)
    ]
    assert times[:4] == [f"1970-01-01T00:00:0{second}Z" for second in ("0.500000", "0.833333", "1.166666", "1.500000")]
    assert times == [entry.timestamp for entry in source.take(7, start=0.5)]


def test_a_generator_that_cannot_keep_up_leaves_the_loop_to_others():
    """It catches up in bounded chunks and lets others run between them."""
    ticks = []

    async def scenario():
        source = LogGenerator(1_000_000, 0, seed=1, clock=lambda: 1000.0 * len(ticks))
        others = asyncio.create_task(tick())
        async with contextlib.aclosing(source.chunks()) as chunks:
            async for chunk in chunks:
                assert len(chunk.entries) <= generator.MAX_CHUNK
                if len(ticks) >= 3:
                    break
        others.cancel()

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_entries_look_like_a_real_system():
    """Several services, levels in believable proportions, varying messages, now and then a stack trace."""
    entries = LogGenerator(1000, 0, seed=3).take(20_000)
    levels = {level: sum(entry.level == level for entry in entries) / len(entries) for level in ("INFO", "ERROR")}
    assert len({entry.service for entry in entries}) >= 5
    assert levels["INFO"] > 0.5
    assert 0.005 < levels["ERROR"] < 0.05
    assert len({entry.message for entry in entries}) > 15_000
    assert any("\n" in entry.message for entry in entries)
    assert [entry.timestamp for entry in entries] == sorted(entry.timestamp for entry in entries)


# standard input


def read_pipe(write):
    """What StdinSource makes of a pipe that `write` fills from another thread."""
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=write, args=(write_end,))
    writer.start()
    try:
        source = StdinSource(fields={"env": "test"}, host="h", fd=read_end)

        async def collect():
            return [entry async for chunk in source.chunks() for entry in objects_of(chunk)]

        return asyncio.run(collect()), source
    finally:
        writer.join()
        os.close(read_end)


def test_a_pipe_is_read_to_its_end():
    """A large one in order, and the last line without its newline."""
    lines = [f"line {number} é" for number in range(50_000)]

    def write(fd):
        with os.fdopen(fd, "wb") as pipe:
            pipe.write("\n".join(lines).encode())

    entries, source = read_pipe(write)
    assert [entry["message"] for entry in entries] == lines
    assert (entries[0]["service"], entries[0]["env"], entries[0]["host"]) == ("stdin", "test", "h")
    assert source.counts() == {"invalid_utf8": 0, "split_line": 0}


def test_a_file_as_standard_input_is_read_like_a_pipe(tmp_path):
    """Redirection works, and the size is known for a progress display."""
    path = tmp_path / "in"
    path.write_bytes(b"a\nb\n")
    fd = os.open(path, os.O_RDONLY)
    source = StdinSource(fields={}, host="h", fd=fd)

    async def collect():
        return [text async for chunk in source.chunks() for text in messages_of(chunk)]

    assert asyncio.run(collect()) == ["a", "b"]
    assert source.total_bytes() == source.read_bytes == 4
    os.close(fd)


def test_a_line_is_passed_on_before_the_next_one_is_written(run):
    """A slow writer's lines do not wait for more."""
    read_end, write_end = os.pipe()

    async def scenario():
        async with contextlib.aclosing(StdinSource(fields={}, host="h", fd=read_end).chunks()) as chunks:
            for text in ("one", "two"):
                os.write(write_end, text.encode() + b"\n")
                chunk = await asyncio.wait_for(anext(chunks), 60)
                assert messages_of(chunk) == [text]

    run(scenario)
    os.close(write_end)
    os.close(read_end)


# files


def read_once(*patterns, **options):
    source = TailSource([str(p) for p in patterns], follow=False, from_start=True, fields={}, host="h", **options)

    async def collect():
        return [chunk async for chunk in source.chunks()]

    chunks = asyncio.run(collect())
    return [text for chunk in chunks for text in messages_of(chunk)], chunks, source


def test_files_and_globs_are_read_once_to_the_end(tmp_path):
    """In --once mode: all of them, the last line too where it has no newline, each file once."""
    (tmp_path / "a.log").write_bytes(b"a1\na2")
    (tmp_path / "b.log").write_bytes(b"b1\n")
    lines, chunks, source = read_once(tmp_path / "*.log", tmp_path / "a.log")
    assert sorted(lines) == ["a1", "a2", "b1"]
    assert source.read_bytes == 8
    entry = objects_of(chunks[0])[0]
    assert (entry["file"], entry["service"], entry["host"]) == (str(tmp_path / "a.log"), "a", "h")


def test_cursors_count_the_bytes_of_the_file(tmp_path):
    """Where a chunk starts and what its entries took leads from one chunk to the next, over any piece of a line."""
    path = tmp_path / "a.log"
    path.write_bytes(b"".join(b"line %d %s\n" % (n, b"x" * (n % 500)) for n in range(8000)))
    _, chunks, _ = read_once(path)
    offset = 0
    for chunk in chunks:
        assert chunk.source.startswith("file:")
        assert chunk.source.endswith(str(path))
        assert chunk.start == offset
        offset = cursor_after(chunk)
        assert sum(chunk.measure()) == offset - chunk.start
    assert len(chunks) > 2
    assert offset == path.stat().st_size


def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    """A missing path, a glob without matches, a directory: the message names it."""
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for pattern in (tmp_path / "missing", tmp_path / "*.nothing", tmp_path, tmp_path / "fifo", tmp_path / "*"):
        with pytest.raises(StorageError, match=str(tmp_path)):
            read_once(pattern)


def test_a_path_with_a_pattern_s_signs_in_it_is_a_path(tmp_path):
    """The shell has expanded the pattern already."""
    (tmp_path / "app[1].log").write_bytes(b"a\n")
    assert read_once(tmp_path / "app[1].log")[0] == ["a"]


def test_a_file_that_stops_to_be_readable_is_an_error(tmp_path, monkeypatch):
    """In --once mode it was not read to its end; the message says where that happened."""
    path = tmp_path / "a.log"
    path.write_bytes(b"a\n")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError, match="byte 0 on: input/output error"):
        read_once(path)


def test_an_endless_line_is_split_and_counted(tmp_path):
    """A file without newlines costs no more memory than a line may have."""
    path = tmp_path / "a.log"
    path.write_bytes("é".encode() * (5 << 19))
    lines, chunks, source = read_once(path)
    assert "".join(lines) == "é" * (5 << 19)
    assert [len(line.encode()) for line in lines] == [1 << 20] * 5
    assert source.counts() == {"invalid_utf8": 0, "split_line": 4}
    assert [chunk.start for chunk in chunks] == [number << 20 for number in range(5)]


class Following:
    """A TailSource that follows, and the lines it has given so far."""

    def __init__(self, *patterns, from_start=True):
        self.lines = []
        self.source = TailSource(
            [str(p) for p in patterns], follow=True, from_start=from_start, fields={}, host="h", poll_interval=0.005
        )

    async def __aenter__(self):
        self.task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def run(self):
        async with contextlib.aclosing(self.source.chunks()) as chunks:
            async for chunk in chunks:
                self.lines += messages_of(chunk)

    async def expect_at_least(self, count):
        async with asyncio.timeout(60):
            while len(self.lines) < count:
                await asyncio.sleep(0)

    async def expect(self, *lines):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while self.lines != list(lines):
                    await asyncio.sleep(0.002)
        assert self.lines == list(lines)


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


def test_a_growing_file_is_followed_and_a_partial_line_waits_for_its_end(run, tmp_path):
    """One byte at a time gives whole lines."""
    path = tmp_path / "a.log"
    path.write_bytes(b"old\n")

    async def scenario():
        async with Following(path) as following:
            await following.expect("old")
            for byte in b"new line":
                append(path, bytes([byte]))
                await asyncio.sleep(0.001)
            await following.expect("old")
            append(path, b"\nnext\n")
            await following.expect("old", "new line", "next")

    run(scenario)


def test_from_the_end_means_only_what_is_written_from_now_on(run, tmp_path):
    """But a file that appears later is read from its start."""
    path = tmp_path / "a.log"
    path.write_bytes(b"old\n")

    async def scenario():
        async with Following(tmp_path / "*.log", from_start=False) as following:
            append(path, b"new\n")
            await following.expect("new")
            (tmp_path / "b.log").write_bytes(b"fresh\n")
            await following.expect("new", "fresh")

    run(scenario)


def test_a_rename_rotation_loses_nothing(run, tmp_path):
    """The old file is read to its end, also what its writer still appends; the new one from its start."""
    path, old = tmp_path / "a.log", tmp_path / "a.log.1"
    path.write_bytes(b"1\n")

    async def scenario():
        async with Following(path) as following:
            await following.expect("1")
            append(path, b"2\n")
            path.rename(old)
            path.write_bytes(b"4\n")
            await following.expect("1", "2", "4")
            append(old, b"3\n")
            await following.expect("1", "2", "4", "3")

    run(scenario)


def test_a_rotated_file_is_read_to_its_end_before_the_new_one_is_begun(run, tmp_path, monkeypatch):
    """However much of it is left: the order of the lines is the order of writing."""
    monkeypatch.setattr(tail_file, "READ_BYTES", 2048)
    path = tmp_path / "a.log"
    lines = [f"{number:09d}" * 10 for number in range(20_000)]

    async def scenario():
        path.write_text("".join(f"{line}\n" for line in lines[:15_000]))
        async with Following(path) as following:
            await following.expect_at_least(1)
            path.rename(tmp_path / "a.log.1")
            path.write_text("".join(f"{line}\n" for line in lines[15_000:]))
            await following.expect(*lines)

    run(scenario)


def test_a_file_that_cannot_be_read_for_a_while_is_tried_again(run, tmp_path, monkeypatch, caplog):
    """A followed one loses nothing; it is said once."""
    path = tmp_path / "a.log"
    path.write_bytes(b"a\n")
    failures = [OSError(errno.EIO, "Input/output error")] * 3
    pread = os.pread

    def fail_first(*arguments):
        if failures:
            raise failures.pop()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", fail_first)

    async def scenario():
        async with Following(path) as following:
            await following.expect("a")

    run(scenario)
    assert caplog.text.count("input/output error") == 1


def test_a_rotated_file_is_let_go_after_a_while(run, tmp_path, monkeypatch):
    """Its last line comes out even without a newline, and its descriptor is closed."""
    monkeypatch.setattr(tail_file, "DELETED_GRACE", 0.02)
    path = tmp_path / "a.log"
    path.write_bytes(b"1\nno newline")

    async def scenario():
        async with Following(path) as following:
            await following.expect("1")
            path.unlink()
            await following.expect("1", "no newline")
            path.write_bytes(b"2\n")
            await following.expect("1", "no newline", "2")

    run(scenario)


def test_a_truncated_file_is_read_again_from_its_start(run, tmp_path):
    """copytruncate: a half line before the cut stays apart from the first one after it."""
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\nhalf")

    async def scenario():
        async with Following(path) as following:
            await following.expect("one", "two")
            os.truncate(path, 0)
            await asyncio.sleep(0.05)
            append(path, b"new\n")
            await following.expect("one", "two", "half", "new")

    run(scenario)


def test_a_path_that_appears_later_is_read_from_its_start(run, tmp_path):
    """Following a file that a service has yet to make."""

    async def scenario():
        async with Following(tmp_path / "later.log", from_start=False) as following:
            await asyncio.sleep(0.02)
            (tmp_path / "later.log").write_bytes(b"first\n")
            await following.expect("first")

    run(scenario)


def resumed(path, cursors, *, follow=False):
    """What a second run reads that has the first one's cursors."""
    source = TailSource([str(path)], follow=follow, from_start=True, fields={}, host="h", resume=cursors)

    async def collect():
        return [chunk async for chunk in source.chunks()]

    return [text for chunk in asyncio.run(collect()) for text in messages_of(chunk)]


def cursors_of(chunks):
    """What a spool keeps after these chunks."""
    cursors = {}
    for chunk in chunks:
        cursors = {name: offset for name, offset in cursors.items() if name not in chunk.forgotten}
        cursors[chunk.source] = cursor_after(chunk)
    return cursors


def test_a_second_run_goes_on_where_the_first_one_ended(tmp_path):
    """Known by device, inode and first bytes: also a file under a KiB that has grown, and one that was renamed."""
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    _, chunks, _ = read_once(path)
    cursors = cursors_of(chunks)
    append(path, b"three\n" + b"x" * 2000 + b"\n")
    assert resumed(path, cursors) == ["three", "x" * 2000]
    path.rename(tmp_path / "a.log.1")
    path.write_bytes(b"fresh\n")
    assert resumed(path, cursors) == ["three", "x" * 2000, "fresh"]


def test_a_recycled_inode_is_not_taken_for_the_file_that_had_it(tmp_path):
    """Written anew in place, with other first bytes: read from its start."""
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    _, chunks, _ = read_once(path)
    with path.open("r+b") as file:
        file.write(b"ONE\nTWO\nthree\n")
    assert resumed(path, cursors_of(chunks)) == ["ONE", "TWO", "three"]


def test_files_with_the_same_beginning_have_cursors_of_their_own(tmp_path):
    """The same first KiB in two files, read to different places."""
    head = b"# header\n" * 200
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_bytes(head)
    _, chunks, _ = read_once(tmp_path / "*.log")
    assert len(cursors_of(chunks)) == 2
    append(tmp_path / "b.log", b"new\n")
    assert resumed(tmp_path / "*.log", cursors_of(chunks)) == ["new"]
