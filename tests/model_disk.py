"""A disk that forgets what was not synced. Real files are the page cache; beside them stands what a power cut leaves.

A write that was not synced may be kept, dropped or torn, each for itself, whatever came after it; so may the making,
renaming and unlinking of a name in a directory that was not synced. kill -9 keeps the page cache as it is.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from unittest.mock import patch

from archive_batches import PowerOff

Tree = dict[str, "bytes | Tree"]
"""The contents of a directory."""


class File:
    """An inode: what is durable of it, and the writes since, in order. A write of None cuts it at the offset."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.pending: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        self.durable = _written(self.durable, self.pending)
        self.pending = []

    def after_power_cut(self, random: Random, keep: float) -> bytes:
        """What is left of it; `keep` is the chance of each write."""
        kept: list[tuple[int, bytes | None]] = []
        for offset, data in self.pending:
            chance = random.random()
            if chance < keep:
                kept.append((offset, data))
            elif data and chance < keep + (1 - keep) / 2:
                # The size may be there without the bytes, or some of the bytes.
                start, end = sorted(random.randint(0, len(data)) for _ in range(2))
                torn = bytes(start) + data[start:end]
                kept.append((offset, torn + bytes(len(data) - end) if random.random() < 0.5 else torn))
        return _written(self.durable, kept)


def _written(data: bytes, writes: list[tuple[int, bytes | None]]) -> bytes:
    whole = bytearray(data)
    for offset, new in writes:
        if len(whole) < offset:
            whole += bytes(offset - len(whole))
        if new is None:
            del whole[offset:]
        else:
            whole[offset : offset + len(new)] = new
    return bytes(whole)


class Directory:
    """Names: as they are, as they are durable, and the changes since; a rename is one change of two names."""

    def __init__(self) -> None:
        self.live: dict[str, File | Directory] = {}
        self.durable: dict[str, File | Directory] = {}
        self.pending: list[dict[str, File | Directory | None]] = []

    def change(self, names: "dict[str, File | Directory | None]") -> None:
        self.pending.append(names)
        _rename(self.live, names)

    def sync(self) -> None:
        self.durable = dict(self.live)
        self.pending = []

    def after_power_cut(self, random: Random, keep: float) -> Tree:
        names = dict(self.durable)
        for change in self.pending:
            if random.random() < keep:
                _rename(names, change)
        return {name: node.after_power_cut(random, keep) for name, node in names.items()}


def _rename(names: "dict[str, File | Directory]", change: "dict[str, File | Directory | None]") -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """One machine's disk under `root`. While attached() runs, os's calls for paths in it arrive here."""

    def __init__(self, root: Path, random: Random, *, deaf_to: str = "") -> None:
        """`deaf_to` is a mutant: "fdatasync" or "directory" are called, and nothing becomes durable."""
        self.root = root
        self._name = str(root)
        self.calls_left: int | None = None
        """Changing calls until the process dies in one; None while it lives on."""
        self.opened: dict[int, tuple[File | Directory, int]] = {}
        """What each descriptor is, here and as the system numbers it."""
        self._random = random
        self._deaf_to = deaf_to
        self.load({})

    def load(self, tree: Tree) -> None:
        """Makes this, durably, all there is."""
        self.kill()
        self._attached = False
        shutil.rmtree(self.root, ignore_errors=True)
        self._top = self._made(self.root, tree)
        self._attached = True

    def _made(self, path: Path, tree: Tree) -> Directory:
        made = Directory()
        path.mkdir()
        for name, content in tree.items():
            if isinstance(content, dict):
                made.live[name] = self._made(path / name, content)
            else:
                (path / name).write_bytes(content)
                made.live[name] = File(content)
        made.sync()
        return made

    def copy(self) -> Tree:
        """What a backup would read now."""
        return _tree(self._top)

    def kill(self) -> None:
        """The process is gone, and with it what it had open."""
        for fd, (_, inode) in self.opened.items():
            with suppress(OSError):  # closed already, behind our back: then the number may be somebody else's
                if os.fstat(fd).st_ino == inode:
                    _REAL["close"](fd)
        self.opened.clear()
        self.calls_left = None

    def cut_power(self, keep: float | None = None) -> None:
        """The page cache is gone too, but for what had a chance of `keep` to be written by itself."""
        if keep is None:
            keep = self._random.choice([0.0, 0.5, 0.9, 1.0])
        self.load(self._top.after_power_cut(self._random, keep))

    def holds(self, path: object) -> bool:
        return self._attached and (str(path) == self._name or str(path).startswith(self._name + "/"))

    def node(self, path: object) -> "File | Directory | None":
        node: File | Directory | None = self._top
        for name in Path(str(path)).relative_to(self.root).parts:
            node = node.live.get(name) if isinstance(node, Directory) else None
        return node

    def parent(self, path: object) -> Directory:
        found = self.node(Path(str(path)).parent)
        assert isinstance(found, Directory)
        return found

    def _count(self) -> None:
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise PowerOff
            self.calls_left -= 1

    # The calls, each with what it leaves behind.

    def open(self, path, flags, mode=0o777):
        if flags & os.O_CREAT:
            self._count()
        fd = _REAL["open"](path, flags, mode)
        node = self.node(path)
        if node is None:
            node = File()
            self.parent(path).change({Path(path).name: node})
        elif flags & os.O_TRUNC and isinstance(node, File):
            node.pending.append((0, None))
        self.opened[fd] = node, os.fstat(fd).st_ino
        return fd

    def close(self, fd):
        del self.opened[fd]
        _REAL["close"](fd)

    def pwrite(self, fd, data, offset):
        data = bytes(data)
        if self.calls_left == 0:
            data = data[: self._random.randint(0, len(data))]
        written = _REAL["pwrite"](fd, data, offset) if data else 0
        self.opened[fd][0].pending.append((offset, data))
        self._count()
        return written

    def ftruncate(self, fd, size):
        self._count()
        _REAL["ftruncate"](fd, size)
        self.opened[fd][0].pending.append((size, None))

    def fdatasync(self, fd):
        self._count()
        if self._deaf_to != "fdatasync":
            self.opened[fd][0].sync()

    def fsync(self, fd):
        self._count()
        node = self.opened[fd][0]
        if self._deaf_to != "directory" or isinstance(node, File):
            node.sync()

    def mkdir(self, path, mode=0o777):
        self._count()
        _REAL["mkdir"](path, mode)
        self.parent(path).change({Path(path).name: Directory()})

    def rmdir(self, path):
        self.unlink(path, "rmdir")

    def unlink(self, path, call="unlink"):
        self._count()
        _REAL[call](path)
        self.parent(path).change({Path(path).name: None})

    def rename(self, source, target):
        self._count()
        _REAL["rename"](source, target)
        node, old, new = self.node(source), Path(source), Path(target)
        if old.parent == new.parent:
            self.parent(source).change({old.name: None, new.name: node})
        else:
            self.parent(target).change({new.name: node})
            self.parent(source).change({old.name: None})

    def link(self, source, target):
        self._count()
        _REAL["link"](source, target)
        self.parent(target).change({Path(target).name: self.node(source)})


def _tree(directory: Directory) -> Tree:
    return {
        name: _tree(node) if isinstance(node, Directory) else _written(node.durable, node.pending)
        for name, node in directory.live.items()
    }


_BY_PATH = ("open", "mkdir", "rmdir", "unlink", "rename", "link")
_BY_FD = ("close", "pwrite", "ftruncate", "fdatasync", "fsync")
_REAL = {name: getattr(os, name) for name in (*_BY_PATH, *_BY_FD)}


@contextmanager
def attached(*disks: Disk) -> Iterator[None]:
    """For as long as this runs, os's calls go through the disks; those for anything else are as ever."""

    def by_path(name):
        def call(path, *arguments, **options):
            for disk in disks:
                if disk.holds(path):
                    return getattr(disk, name)(path, *arguments, **options)
            return _REAL[name](path, *arguments, **options)

        return call

    def by_fd(name):
        def call(fd, *arguments):
            for disk in disks:
                if fd in disk.opened:
                    return getattr(disk, name)(fd, *arguments)
            return _REAL[name](fd, *arguments)

        return call

    with ExitStack() as patches:
        for name in _BY_PATH:
            patches.enter_context(patch.object(os, name, by_path(name)))
        for name in _BY_FD:
            patches.enter_context(patch.object(os, name, by_fd(name)))
        try:
            yield
        finally:
            for disk in disks:
                disk.kill()
