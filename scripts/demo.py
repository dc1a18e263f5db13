"""`make demo`: a receiver in a process of its own, this machine's logs through it, and what that took.

Ends with 0 only when every entry that was shipped is read back from the archive. Keeps to a directory of its own, which
it empties first, and to loopback.
"""

import asyncio
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from logbale.config import load
from logbale.errors import LogbaleError
from logbale.log_shipper import LogShipper
from logbale.ship_report import ShipReport
from logbale.sources.generator import LogGenerator
from logbale.sources.tail import TailSource
from logbale.terminal import count

ROOT = Path(__file__).resolve().parent.parent
LOGBALE = Path(sys.executable).with_name("logbale")
ARCHIVE = Path("demo-archive")
LOGS = Path("/var/log")
MAX_LOG_BYTES = 64 * 1024 * 1024
"""Of the newest files: more would not fit into the half minute that a demo may take on a slow machine."""


def main() -> int:
    """Runs the demo; the exit code."""
    os.chdir(ROOT)
    shutil.rmtree(ARCHIVE, ignore_errors=True)
    files = text_logs(LOGS, MAX_LOG_BYTES)
    origin = f"{count(len(files), 'file', 'files')} in {LOGS}" if files else f"generated: {LOGS} has no readable text"
    receiver = start_receiver()
    try:
        port = listening_port(receiver)
        print(f"demo: native; a receiver on 127.0.0.1:{port}, and a shipper that reads {origin}\n", flush=True)
        report, log_bytes = asyncio.run(ship(files, port))
    except (LogbaleError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        receiver.terminate()
        messages = receiver.communicate()[1]
    print(table(report, origin, log_bytes))
    read, stored = report.snapshot.read_entries, entries_in_archive()
    if not report.delivered or stored != read or receiver.returncode:
        print(f"demo: failed: {read:,} entries read, {stored:,} stored; the receiver said:", file=sys.stderr)
        print(messages, file=sys.stderr)
        return 1
    print(f"\nAll {stored:,} entries were read back from the archive. To see them:\n")
    print(f"    {LOGBALE.relative_to(ROOT) if LOGBALE.is_relative_to(ROOT) else LOGBALE} cat {ARCHIVE}")
    install = "" if shutil.which("zstdcat") else "     # needs: sudo apt-get install zstd"
    print(f"    zstdcat {ARCHIVE}/*/*.ndjson.zst{install}")
    return 0


def text_logs(directory: Path, limit: int) -> list[Path]:
    """The newest readable text files below `directory`, at most `limit` bytes in all; larger ones are passed over."""
    found = []
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            try:
                if path.is_file() and not path.is_symlink() and is_text(path):
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
            except OSError:  # not ours to read, or gone
                continue
    chosen = []
    for _, size, path in sorted(found, reverse=True):
        if size <= limit:
            limit -= size
            chosen.append(path)
    return chosen


def is_text(path: Path) -> bool:
    """Whether a file begins like a log: something there, no NUL, valid UTF-8 but perhaps for its last character."""
    with path.open("rb") as file:
        head = file.read(4096)
    return bool(head) and b"\0" not in head and len(head.decode(errors="ignore").encode()) >= len(head) - 3


def start_receiver() -> subprocess.Popen[str]:
    """`logbale receive` on a port that the system chooses, whatever the settings around it say."""
    command = [LOGBALE, "receive", "--listen", "127.0.0.1:0", "--archive", ARCHIVE, "--sink", "archive"]
    environment = os.environ | {"METRICS_PORT": "", "DASHBOARD_ENABLED": ""}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def listening_port(receiver: subprocess.Popen[str]) -> int:
    """The port that it says it listens on. Raises OSError, with what it said instead, where it does not."""
    said = []
    assert receiver.stderr is not None
    for line in receiver.stderr:
        if match := re.search(r"listening on \S+:(\d+)", line):
            return int(match[1])
        said.append(line)
    raise OSError(f"the receiver did not start; it says:\n{''.join(said)}")


async def ship(files: list[Path], port: int) -> tuple[ShipReport, int]:
    """Ships the files, or a few seconds of the generator, to the receiver's word that it has it; the bytes read too."""
    settings = load(
        {"server_host": "127.0.0.1", "server_port": port, "metrics_port": 0},
        os.environ,
        defaults={"log_rate": 20_000.0, "run_time": 3.0},
    ).settings
    if not files:
        return await LogShipper(settings, LogGenerator(settings.log_rate, settings.run_time)).run(), 0
    names = [glob.escape(str(path)) for path in files]
    source = TailSource(names, follow=False, from_start=True, fields={}, host=socket.gethostname())
    report = await LogShipper(settings, source).run()
    return report, source.read_bytes


def table(report: ShipReport, origin: str, log_bytes: int) -> str:
    """What it took, a line a number."""
    snapshot = report.snapshot
    compression = f"{snapshot.algorithm}, level {snapshot.level}" if snapshot.algorithm != "none" else "none"
    of_lines = f" of {log_bytes:,} bytes of lines" if log_bytes else ""
    rows = [
        ("entries", f"{snapshot.delivered_entries:,}", origin),
        ("raw bytes", f"{snapshot.sent.raw_bytes:,}", f"JSON{of_lines}, in {snapshot.sent.batches:,} batches"),
        ("wire bytes", f"{snapshot.sent.wire_bytes:,}", f"frames, headers included; compression: {compression}"),
        ("ratio", f"{snapshot.ratio:.2f}", "raw / wire"),
        (
            "entries/s",
            f"{snapshot.mean_rates.entries:,.0f}",
            f"from reading to stored and synced, {snapshot.uptime:.2f} s",
        ),
        ("archive", str(ARCHIVE), f"{sum(path.stat().st_size for path in ARCHIVE.rglob('*.zst')):,} bytes on disk"),
    ]
    return "\n".join(f"  {name:<11}{value:>15}   {note}" for name, value, note in rows)


def entries_in_archive() -> int:
    """Entries that `logbale cat` reads back."""
    output = subprocess.run([LOGBALE, "cat", ARCHIVE], stdout=subprocess.PIPE, check=True).stdout
    return output.count(b"\n")


if __name__ == "__main__":
    sys.exit(main())
