"""What files go through while they are followed and between two runs: each line once, in order, or said to be lost."""

import asyncio
import contextlib
import gzip
import os
import random
import tempfile
from pathlib import Path

import pytest
from chunks import cursor_after, messages_of

from logbale.errors import StorageError
from logbale.sources.tail import TailSource
from logbale.sources.tail import file as tail_file
from logbale.sources.tail import files as tail_files
from logbale.sources.tail import source as tail_source
from logbale.sources.tail.identity import HEAD_BYTES, FileName, Identity
from logbale.sources.tail.watch import Watcher


class Run:
    """A TailSource that follows, what it has given, and the cursors that a spool would have by now."""

    def __init__(self, *patterns, cursors=None, from_start=True, **options):
        self.lines = []
        self.sources = []
        self.cursors = dict(cursors or {})
        self.source = TailSource(
            [str(pattern) for pattern in patterns],
            **{"follow": True, "from_start": from_start, "fields": {}, "host": "h", "poll_interval": 0.01, **options},
            resume=self.cursors,
        )
        self.cursors |= {name: at for name, at in self.source.begun.items() if name != tail_source.BEGUN}
        self.was_begun = tail_source.BEGUN in self.source.begun

    async def __aenter__(self):
        self.task = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def read(self):
        async with contextlib.aclosing(self.source.chunks()) as chunks:
            async for chunk in chunks:
                for name in chunk.forgotten:
                    self.cursors.pop(name, None)
                self.lines += messages_of(chunk)
                if chunk.source:
                    assert len(chunk.source.encode()) <= 512
                    self.cursors[chunk.source] = cursor_after(chunk)

    async def until(self, condition):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.002)
        assert condition()

    async def expect(self, *lines):
        with contextlib.suppress(AssertionError):
            await self.until(lambda: self.lines == list(lines))
        assert self.lines == list(lines)


def append(path, *lines):
    with open(path, "ab") as file:
        file.write(b"".join(line.encode() + b"\n" for line in lines))


@pytest.fixture(autouse=True)
def _tight(monkeypatch):
    """Few descriptors, and a look at everything more often than events should need."""
    monkeypatch.setattr(tail_files, "MAX_OPEN", 20)
    monkeypatch.setattr(tail_source, "LOOK_INTERVAL", 0.1)


def scenario(test):
    """Runs a test that is a coroutine function, with and without file events."""

    @pytest.mark.parametrize("polling", [False, True], ids=["events", "polling"])
    def run_test(tmp_path, polling):
        asyncio.run(test(tmp_path, polling))

    run_test.__doc__ = test.__doc__
    run_test.__name__ = test.__name__
    return run_test


# between two runs


@scenario
async def test_a_run_goes_on_where_the_last_one_ended(tmp_path, polling):
    """By cursor, whatever was appended since; a file that is new is read from its start, though the end was asked."""
    path = tmp_path / "a.log"
    append(path, "1", "2")
    async with Run(tmp_path / "*.log", polling=polling) as first:
        await first.expect("1", "2")
    append(path, "3")
    append(tmp_path / "b.log", "new")
    async with Run(tmp_path / "*.log", polling=polling, cursors=first.cursors, from_start=False) as second:
        await second.until(lambda: sorted(second.lines) == ["3", "new"])
    async with Run(tmp_path / "*.log", polling=polling, cursors=second.cursors) as third:
        append(path, "4")
        await third.expect("4")


@scenario
async def test_what_was_left_out_at_the_first_start_stays_left_out(tmp_path, polling):
    """The place where reading began is a cursor, too."""
    idle, busy = tmp_path / "idle.log", tmp_path / "busy.log"
    append(idle, "old")
    append(busy, "old")
    async with Run(tmp_path / "*.log", polling=polling, from_start=False) as first:
        append(busy, "new")
        await first.expect("new")
    assert len(first.cursors) == 2
    append(idle, "later")
    async with Run(tmp_path / "*.log", polling=polling, cursors=first.cursors, from_start=False) as second:
        await second.expect("later")


@scenario
async def test_a_first_run_that_finds_nothing_to_leave_out_is_a_first_run_all_the_same(tmp_path, polling):
    """Only empty files, or none: what is written between it and the next run is read."""
    (tmp_path / "empty.log").touch()
    async with Run(tmp_path / "*.log", polling=polling, from_start=False) as first:
        assert first.was_begun
    assert first.cursors == {}
    append(tmp_path / "empty.log", "1")
    append(tmp_path / "new.log", "2")
    known = {tail_source.BEGUN: 1}
    async with Run(tmp_path / "*.log", polling=polling, from_start=False, cursors=known) as second:
        await second.until(lambda: sorted(second.lines) == ["1", "2"])
        assert not second.was_begun


def test_the_ends_of_all_files_become_known_at_once(tmp_path):
    """Before anything is read: a crash between two would leave the next run with files that it takes for new."""
    for number in range(30):
        append(tmp_path / f"{number}.log", "old")
    source = TailSource([str(tmp_path / "*.log")], follow=True, from_start=False, fields={}, host="h")

    assert len(source.begun) == 31


@scenario
async def test_a_file_renamed_between_two_runs_is_read_to_its_end_before_its_successor(tmp_path, polling):
    """Found in its directory by inode and first bytes, and so is one that had the path in between."""
    for directory, pattern in ((tmp_path / "path", "a.log"), (tmp_path / "glob", "a.log*")):
        path = directory / "a.log"
        directory.mkdir()
        append(path, "1")
        async with Run(directory / pattern, polling=polling) as first:
            await first.expect("1")
        append(path, "2")
        path.rename(f"{path}.2")
        append(f"{path}.1", "3")
        append(path, "4")
        async with Run(directory / pattern, polling=polling, cursors=first.cursors) as second:
            await second.expect("2", "3", "4")
            append(f"{path}.2", "late")
            await second.expect("2", "3", "4", "late")


@scenario
async def test_cursors_of_files_that_are_gone_are_forgotten(tmp_path, polling):
    """So that a spool does not collect the names of all files that ever were; those of another kind stay."""
    path, cursors = tmp_path / "a.log", {}
    for generation in range(5):
        append(path, f"{generation}")
        async with Run(path, polling=polling, cursors=cursors) as run:
            await run.expect(f"{generation}")
        cursors = run.cursors
        assert len(cursors) == 1
        path.unlink()
    kept = {"journal:x": 7, "file:broken": 1}
    async with Run(tmp_path / "*", polling=polling, cursors=cursors | kept) as last:
        await last.until(lambda: last.cursors == kept)
    assert last.source.counts()["vanished_files"] == 1


def take_inode(path, inode):
    """Makes an empty file with this inode, where the file system gives it out again."""
    for number in range(2000):
        other = path.with_name(f"other-{number}")
        other.touch()
        if other.stat().st_ino == inode:
            other.rename(path)
            return
    pytest.skip("this file system did not give the inode out again")


@scenario
async def test_a_recycled_inode_is_another_file(tmp_path, polling):
    """Deleted and made anew with the same inode, between two runs: read from its start, however long it is."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as on_disk:  # in memory no inode is given out again
        path = Path(on_disk, "a.log")
        append(path, "1", "2")
        inode = path.stat().st_ino
        async with Run(path, polling=polling) as first:
            await first.expect("1", "2")
        path.unlink()
        take_inode(path, inode)
        append(path, "one", "two", "three")
        async with Run(path, polling=polling, cursors=first.cursors) as second:
            await second.expect("one", "two", "three")


@scenario
async def test_a_file_under_one_kib_is_known_while_it_grows(tmp_path, polling):
    """Its name grows with it, and only one of them is kept."""
    path, lines, cursors = tmp_path / "a.log", [f"{number} " + "x" * 100 for number in range(30)], {}
    for line in lines:
        append(path, line)
        async with Run(path, polling=polling, cursors=cursors) as run:
            await run.expect(line)
        cursors = run.cursors
        assert len(cursors) == 1
    (name,) = cursors
    assert FileName.parse(name).head_bytes == HEAD_BYTES
    assert cursors[name] == path.stat().st_size


@scenario
async def test_two_files_with_the_same_first_kib_are_two(tmp_path, polling):
    """Each has its own lines and its own cursor."""
    head = ["# the same header"] * 100
    for name in ("a", "b"):
        append(tmp_path / f"{name}.log", *head)
    async with Run(tmp_path / "*.log", polling=polling) as first:
        await first.until(lambda: len(first.lines) == 200)
        assert len(first.cursors) == 2
    append(tmp_path / "b.log", "of b")
    async with Run(tmp_path / "*.log", polling=polling, cursors=first.cursors) as second:
        await second.expect("of b")


@scenario
async def test_an_unfinished_line_is_left_for_the_next_run(tmp_path, polling):
    """Following, a line without its end is not read: the cursor is before it."""
    path = tmp_path / "a.log"
    path.write_bytes(b"whole\nha")
    async with Run(path, polling=polling) as first:
        await first.expect("whole")
        await asyncio.sleep(0.03)
    append(path, "lf")
    async with Run(path, polling=polling, cursors=first.cursors) as second:
        await second.expect("half")


# while they are followed


@scenario
async def test_fast_rotations_between_two_looks_lose_nothing(tmp_path, polling):
    """A file that had the path for so short a time that nobody saw it there is found under its next name."""
    path = tmp_path / "a.log"
    append(path, "0")
    expected = ["0"]
    async with Run(path, polling=polling) as run:
        await run.expect(*expected)
        for turn in range(4):
            for generation in range(3):
                for number in range(12, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        path.with_name(f"a.log.{number}").rename(path.with_name(f"a.log.{number + 1}"))
                path.rename(path.with_name("a.log.1"))
                line = f"{turn}.{generation}"
                append(path, line)
                expected.append(line)
            await run.expect(*expected)


@scenario
async def test_a_neighbour_is_not_taken_for_a_rotated_file(tmp_path, polling):
    """Logs of their own, compressed copies and backups that were there before stay unread."""
    path = tmp_path / "a.log"
    append(tmp_path / "a.log.1", "rotated long ago")
    os.utime(tmp_path / "a.log.1", (1e9, 1e9))
    append(path, "1")
    async with Run(path, polling=polling) as run:
        await run.expect("1")
        for name in ("a-2.log", "a.log.1.gz", "ab.log", "a.logic"):
            append(tmp_path / name, "not ours")
        path.rename(tmp_path / "a.log.2")
        append(path, "2")
        await run.expect("1", "2")
        await asyncio.sleep(0.05)
        assert run.lines == ["1", "2"]


@pytest.mark.parametrize("same_head", [False, True])
def test_a_file_cut_and_grown_past_the_old_place_is_noticed(tmp_path, same_head):
    """copytruncate between two looks: by its first bytes, and where these are the same by the last ones read."""
    path = tmp_path / "a.log"
    banner = ["banner " + "-" * 90] * 20 if same_head else []

    async def run_it():
        append(path, *banner, *[f"old {number}" for number in range(10)])
        async with Run(path, polling=True, poll_interval=0.05) as run:
            await run.until(lambda: len(run.lines) == len(banner) + 10)
            os.truncate(path, 0)
            new = [*banner, *[f"new line {number}" for number in range(500)]]
            append(path, *new)
            await run.until(lambda: run.lines[-1] == "new line 499")
            assert run.lines[len(banner) + 10 :] == new
            assert run.source.counts()["truncated"] == 1
            assert len(run.cursors) == 1

    asyncio.run(run_it())


@scenario
async def test_unread_bytes_that_a_truncation_took_are_said_and_counted(tmp_path, polling):
    """Nothing is lost silently, though nothing can bring it back."""
    path = tmp_path / "a.log"
    append(path, *["x" * 99] * 10_000)
    source = TailSource([str(path)], follow=True, from_start=True, fields={}, host="h", polling=polling)

    async def slow():
        async with contextlib.aclosing(source.chunks()) as chunks:
            async for chunk in chunks:
                if chunk.entries and messages_of(chunk)[-1] == "new":
                    return
                if chunk.entries and os.stat(path).st_size > 1000:
                    os.truncate(path, 0)
                    append(path, "new")

    await asyncio.wait_for(slow(), 60)
    assert 500_000 < source.counts()["vanished_bytes"] < 1_000_000


@scenario
async def test_deleted_and_made_anew_at_once(tmp_path, polling):
    """The rest of the old file, then the new one; again and again."""
    path, expected = tmp_path / "a.log", []
    async with Run(path, polling=polling) as run:
        for turn in range(20):
            append(path, f"{turn} a")
            expected.append(f"{turn} a")
            await run.expect(*expected)
            append(path, f"{turn} b")
            path.unlink()
            append(path, f"{turn} c")
            expected += [f"{turn} b", f"{turn} c"]
            await run.expect(*expected)
            path.unlink()


@scenario
async def test_a_deleted_file_is_kept_while_the_receiver_makes_everything_wait(tmp_path, polling):
    """However long its chunks are not taken, its bytes are read before it is let go; and not for ever."""
    lines = [f"{number:099d}" for number in range(20_000)]
    for limit, complete in ((3600, True), (0.02, False)):
        path = tmp_path / "a.log"
        append(path, *lines)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(tail_file, "DELETED_GRACE", 0.01)
            monkeypatch.setattr(tail_file, "DELETED_LIMIT", limit)
            source = TailSource(
                [str(path)], follow=True, from_start=True, fields={}, host="h", polling=polling, poll_interval=0.01
            )
            got = []

            async def read(source=source, got=got, path=path):
                async with contextlib.aclosing(source.chunks()) as chunks:
                    async for chunk in chunks:
                        got += messages_of(chunk)
                        path.unlink(missing_ok=True)
                        await asyncio.sleep(0.03)
                        if not chunk.entries and chunk.forgotten:
                            return

            await asyncio.wait_for(read(), 60)
            assert (got == lines) == complete
            lost = source.counts().get("vanished_bytes", 0)
            assert sum(len(line) + 1 for line in got) + lost == pytest.approx(100 * len(lines), abs=100)


@scenario
async def test_a_link_is_followed_to_where_it_leads_now(tmp_path, polling):
    """Also when its target changes; the old target is read to its end. Two names of one file are one file."""
    (tmp_path / "logs").mkdir()
    one, two, link = tmp_path / "logs/1", tmp_path / "logs/2", tmp_path / "current.log"
    append(one, "1")
    append(two, "of 2")
    link.symlink_to(one)
    async with Run(link, one, polling=polling) as run:
        await run.expect("1")
        append(one, "1 more")
        await run.expect("1", "1 more")
        os.symlink(two, tmp_path / "new")
        os.replace(tmp_path / "new", link)
        await run.expect("1", "1 more", "of 2")
        append(two, "of 2, too")
        await run.expect("1", "1 more", "of 2", "of 2, too")


@scenario
async def test_files_in_directories_that_appear_later_are_found(tmp_path, polling):
    """A glob over directories, a path whose directory is missing; excluded ones are not read."""
    async with Run(tmp_path / "*/*.log", tmp_path / "x/y/z", polling=polling, exclude=["*debug*", "**/no/*"]) as run:
        for directory in ("a", "no", "x/y"):
            (tmp_path / directory).mkdir(parents=True)
            for name in ("app.log", "debug.log", "z"):
                append(tmp_path / directory / name, f"{directory}/{name}")
        await run.until(lambda: sorted(run.lines) == ["a/app.log", "x/y/z"])
        append(tmp_path / "a/app.log", "more")
        await run.until(lambda: run.lines[-1] == "more")


@scenario
async def test_a_thousand_files_need_few_descriptors(tmp_path, polling):
    """All lines of all of them, though only some are open at a time, and some are renamed or deleted meanwhile."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    paths = [tmp_path / f"{number}.log" for number in range(1000)]
    for path in paths:
        append(path, f"{path.name} 0")
    async with Run(tmp_path / "*.log", polling=polling, poll_interval=0.05) as run:
        await run.until(lambda: len(run.lines) == 1000)
        if before:
            assert len(os.listdir("/proc/self/fd")) - before < 20 + 15
        for turn in (1, 2):
            for path in random.Random(turn).sample(paths, 300):
                append(path, f"{path.name} {turn}")
            await run.until(lambda: len(run.lines) == 1000 + 300 * turn)  # noqa: B023
        assert len(set(run.lines)) == 1600
        paths[0].rename(tmp_path / "0.moved")
        append(tmp_path / "0.moved", "after the move")
        await run.until(lambda: run.lines[-1] == "after the move")
        paths[1].unlink()
        append(paths[1], "made anew")
        await run.until(lambda: run.lines[-1] == "made anew" and len(run.cursors) == 1000)


# compressed files


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_a_gzip_file_that_is_seen_before_it_is_written_is_decompressed(tmp_path, first):
    """Empty, or with a part of its header: what is in it are its lines, never its bytes."""
    path = tmp_path / "a.log.2.gz"
    data = gzip.compress(b"".join(b"line %d\n" % n for n in range(3000)))

    async def run_it():
        async with Run(tmp_path / "*.gz", polling=True, poll_interval=0.01) as run:
            path.write_bytes(data[:first])
            await asyncio.sleep(0.05)
            with path.open("ab") as file:
                file.write(data[first:])
            await run.until(lambda: len(run.lines) >= 3000)
            assert run.lines == [f"line {n}" for n in range(3000)]

    asyncio.run(run_it())


def test_a_gzip_file_is_read_once(tmp_path):
    """Where a pattern says .gz: all of its members, by content; a second run finds nothing new in it."""
    path = tmp_path / "a.log.2.gz"
    path.write_bytes(gzip.compress(b"1\n2") + gzip.compress(b"2\n3\n"))

    async def run_it():
        async with Run(tmp_path / "*.gz", tmp_path / "*.gz*") as first:
            await first.expect("1", "22", "3")
        assert list(first.cursors.values()) == [7]
        async with Run(path, cursors=first.cursors) as second:
            append(tmp_path / "b.log", "x")
            await asyncio.sleep(0.05)
            assert second.lines == []
            with path.open("ab") as file:
                file.write(b"\0" * 100 + gzip.compress(b"4\n"))
            await second.expect("4")

    asyncio.run(run_it())


def test_what_is_called_gzip_and_is_none_is_text_and_said_once(tmp_path, caplog):
    """Perhaps it was compressed twice, or encrypted: whoever ships it should know."""
    path = tmp_path / "a.log.2.gz"
    path.write_bytes(b"1\n2\n")
    (tmp_path / "empty.gz").write_bytes(b"")

    async def scenario():
        async with Run(tmp_path / "*.gz") as run:
            await run.expect("1", "2")
            with path.open("ab") as file:
                file.write(b"3\n")
            await run.expect("1", "2", "3")

    asyncio.run(scenario())
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{path} is called a gzip file and is none: its lines are shipped as they are"]


def test_a_pattern_that_does_not_say_gz_leaves_compressed_files_out(tmp_path):
    """What lies beside app.log as app.log.2.gz was read when it was app.log."""
    (tmp_path / "a.log.2.gz").write_bytes(gzip.compress(b"old\n"))
    append(tmp_path / "a.log", "1")

    async def run_it():
        async with Run(tmp_path / "a.log*") as run:
            await run.expect("1")
            await asyncio.sleep(0.03)
            assert run.lines == ["1"]

    asyncio.run(run_it())


def test_a_gzip_bomb_costs_little_memory(tmp_path):
    """What comes out of it is taken a piece at a time."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\n" * (8 << 20) + b"end\n"))
    source = TailSource([str(path)], follow=False, from_start=True, fields={}, host="h")

    async def read():
        return [chunk async for chunk in source.chunks()]

    (chunk,) = asyncio.run(read())
    assert messages_of(chunk) == ["end"]
    assert chunk.end - chunk.start <= 128 * 1024 + 4


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:30] + b"\xff\xff" + data[32:]])
def test_a_damaged_gzip_file_is_an_error(tmp_path, damage):
    """Cut off or spoilt: with --once it was not read to its end."""
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(random.Random(1).randbytes(500))))
    source = TailSource([str(path)], follow=False, from_start=True, fields={}, host="h")

    async def read():
        return [chunk async for chunk in source.chunks()]

    with pytest.raises(StorageError, match="gzip"):
        asyncio.run(read())


# entries of many lines


def test_a_stack_trace_is_one_entry(tmp_path):
    """Given out by the next line or after a second, across reads, with exact cursors; held lines are read again."""

    async def run_it():
        path = tmp_path / "a.log"
        trace = ["ERROR failed", "Traceback (most recent call last):", '  File "x.py", line 1', "KeyError: 1"]
        append(path, *trace[:2])
        async with Run(path, multiline="python") as first:
            append(path, *trace[2:])
            append(path, "INFO next")
            await first.expect("\n".join(trace))
            assert list(first.cursors.values()) == [len("\n".join(trace)) + 1]
            await first.expect("\n".join(trace), "INFO next")
        append(path, "  held")
        async with Run(path, multiline="python", cursors=first.cursors) as second:
            await asyncio.sleep(0.05)
            assert second.lines == []
        async with Run(path, multiline="python", cursors=second.cursors) as third:
            append(path, "INFO last")
            await third.expect("  held", "INFO last")

    asyncio.run(run_it())


# waiting


def test_the_watcher_is_told_milliseconds(monkeypatch, tmp_path):
    """It counts in them, and all else here in seconds: 1.5 of these are 1,500 of those, and 0 is not for ever."""
    waits = []

    class Notify:
        def __init__(self, *_):
            pass

        def watch(self, debounce_ms, step_ms, timeout_ms, _):
            waits.append(timeout_ms)
            return "timeout"

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", Notify)

    async def wait():
        watcher = Watcher(polling=False)
        watcher.watch([str(tmp_path)])
        for seconds in (1.5, 0.25, 0.0):
            assert await watcher.wait(seconds) == set()
        watcher.close()

    asyncio.run(wait())
    assert waits == [1500, 250, 1]


# names


def test_a_name_says_all_that_finds_the_file_again(tmp_path):
    """Within 512 bytes, whatever the path; what is no name of a file is none."""
    for path in ("/var/log/a:b.log", "/" + "é" * 2000, "/" + os.fsdecode(b"\xff" * 500)):
        name = FileName.of(Identity(2**64 - 1, 2**64 - 1), b"x" * HEAD_BYTES, path)
        assert FileName.parse(str(name)) == name
        assert len(str(name).encode()) <= 512
        assert name.fits(b"x" * HEAD_BYTES)
        assert not name.fits(b"x" * (HEAD_BYTES - 1))
    for other in ("", "file:1:2", "journal:1:2:3:4:5", "file:x:2:3:4:5"):
        assert FileName.parse(other) is None
