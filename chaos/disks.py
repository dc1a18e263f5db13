"""Disks that lose their power, and disks that fill up."""

import fcntl
import itertools
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

from chaos.processes import End
from chaos.suite import HOW_TO_GET, Run, Skipped

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
"""Nothing that waits goes to the disk any more, not even the journal."""


class PowerDisk:
    """An ext4 file system on a loop device that can lose its power: what was not synced is gone then."""

    def __init__(self, run: Run, directory: Path, *, megabytes: int = 64) -> None:
        """Raises Skipped where this machine mounts no loop devices."""
        self._image = directory / "disk.img"
        self.path = directory / "disk"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _command("mkfs.ext4", "-q", str(self._image))
        self._mount()
        run.finally_do(self._unmount)

    def cut_power(self, user: End | None = None) -> None:
        """From now on every call on the file system fails; its `user` is frozen just before. Kill it before restore().

        Frozen, because a sync that is under way at this moment may return 0 though its bytes are gone (Linux 6.18: 40
        of 500 cuts under a bare loop of writes and syncs). No real power cut lets a process hear that and act on it.
        """
        if user is not None and user.process is not None:
            user.process.freeze()
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def restore(self) -> None:
        """Power is back: the file system as its disk remembers it."""
        self._unmount()
        self._mount()
        try:
            (self.path / "alive").touch()
            (self.path / "alive").unlink()
        except OSError as error:
            raise Skipped(
                f"{self.path}: {error.strerror} after it was mounted anew: another mount namespace holds it; "
                "run as root where unshare(1) is"
            ) from None

    def _mount(self) -> None:
        _command("mount", "-o", "loop", str(self._image), str(self.path))

    def _unmount(self) -> None:
        for _ in range(50):  # a killed process may hold it for a moment
            if not os.path.ismount(self.path) or _run("umount", str(self.path)).returncode == 0:
                return
            time.sleep(0.05)
        _command("umount", "--lazy", str(self.path))


class SmallDisk:
    """A tmpfs that can be filled and freed."""

    def __init__(self, run: Run, directory: Path, *, megabytes: int = 16) -> None:
        """Raises Skipped where this machine mounts none."""
        self.path = directory / "small"
        self.path.mkdir()
        _command("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(self.path))
        run.finally_do(lambda: _run("umount", "--lazy", str(self.path)))
        self._ballast = self.path / "ballast"

    def fill(self) -> None:
        """Takes all space that there is."""
        with self._ballast.open("ab", buffering=0) as file:
            block = 1 << 16
            while block >= 512:
                try:
                    file.write(bytes(block))
                except OSError:
                    block //= 2

    def free(self) -> None:
        """Gives it back."""
        self._ballast.unlink()


class FewInodes:
    """An ext4 file system that has few inodes, and that becomes read-only at an error, as most are set to."""

    def __init__(self, run: Run, directory: Path) -> None:
        """Raises Skipped where this machine mounts no loop devices."""
        self._image = directory / "few.img"
        self.path = directory / "few"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(64 << 20)
        _command("mkfs.ext4", "-q", "-N", "64", "-e", "remount-ro", str(self._image))
        self._mount()
        run.finally_do(lambda: _run("umount", "--lazy", str(self.path)))
        self._ballast: list[Path] = []

    def use_up(self) -> None:
        """Takes every inode that is left."""
        try:
            for number in itertools.count():
                path = self.path / f"ballast-{number}"
                path.touch(exist_ok=False)
                self._ballast.append(path)
        except OSError:
            return

    def free(self) -> None:
        """Gives them back."""
        while self._ballast:
            self._ballast.pop().unlink()

    def fail(self, user: End) -> None:
        """The kernel finds an error in the file system, and writes no more; its `user` is frozen for that moment.

        For the reason that cut_power() has: a sync that is under way would say that it has synced. Raises Skipped where
        it cannot be made.
        """
        user.process.freeze()
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.path)], capture_output=True, text=True, check=False
        ).stdout.strip()
        try:
            Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")
        except OSError as error:
            raise Skipped(f"{error.filename}: {error.strerror}; run as root with /sys writable") from None
        finally:
            user.process.signal(signal.SIGCONT)

    def mend(self) -> None:
        """Checked and mounted anew. Whoever used it must have ended."""
        _command("umount", str(self.path))
        _run("e2fsck", "-p", str(self._image))
        self._mount()

    def _mount(self) -> None:
        _command("mount", "-o", "loop", str(self._image), str(self.path))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _command(*command: str) -> None:
    done = _run(*command)
    if done.returncode:
        raise Skipped(f"{' '.join(command)}: {done.stderr.strip()}; {HOW_TO_GET['mount']}")
