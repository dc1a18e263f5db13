"""The arrows of docs/architecture.md as facts: cli → shells → core; a core without I/O, clock, threads or chance."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "logbale"
CORE = {
    "errors",
    "models",
    "protocol",
    "compression",
    "deflate",
    "batch_buffer",
    "adaptive",
    "adaptive_balanced",
    "level_table",
    "backoff",
    "context",
    "messages",
    "session",
    "liveness",
    "metrics",
    "entry_fields",
    "lines",
    "line_levels",
    "multiline",
    "ndjson",
    "terminal",
    "entry_filter",
    "allowance",
    "sse",
    "durations",
    "levels",
    "reports",
    "clients",
    "history",
    "alarms",
    "waiting_times",
    "newcomers",
    "origins",
    "floods",
    "fullness",
    "tokens",
    "lockout",
    "proxy_protocol",
    "sinks",
    "kafka/message",
    "kafka/assembly",
    "kafka/chain",
    "kafka/metrics",
    "kafka/words",
    "sinks/marks",
    "rendezvous",
    "failover",
    "sent_to",
}
FORBIDDEN = {"asyncio", "socket", "os", "time", "uuid", "psutil", "threading", "concurrent", "pathlib"}


def source_of(module: str) -> Path:
    path = SOURCE / f"{module}.py"
    return path if path.exists() else SOURCE / module / "__init__.py"


def module_of(name: str) -> str:
    """The module that `logbale.sinks.Item` or `logbale.sinks` is imported from, as CORE writes it."""
    module = name.removeprefix("logbale.").replace(".", "/")
    while not source_of(module).exists():
        module = module.rpartition("/")[0]
    return module


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_knows_no_clock_no_chance_and_no_io(module):
    """A core module imports nothing that makes its result depend on anything but its arguments."""
    names = imports(source_of(module))
    assert not {name.split(".")[0] for name in names} & FORBIDDEN
    assert "datetime.datetime.now" not in source_of(module).read_text()


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_only_the_core(module):
    """No arrow points up from the core."""
    ours = {module_of(name) for name in imports(source_of(module)) if name.startswith("logbale.")}
    assert ours <= CORE


def test_only_the_entry_points_import_the_command_line():
    """Nothing below the command line knows it."""
    users = {path.name for path in SOURCE.rglob("*.py") if "logbale.cli" in imports(path)}
    assert users <= {"__main__.py"}


@pytest.mark.parametrize("end", ["log_receiver", "log_shipper"])
def test_what_an_end_does_not_use_it_does_not_import(end):
    """A web server that is off and a library for screens would be half of its start, and half of its memory."""
    others = {"starlette", "uvicorn", "rich", "confluent_kafka", "obstore"}
    code = f"import sys, logbale.{end}, logbale.status; print(*{others} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
