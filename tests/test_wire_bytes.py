"""The table of wire bytes: its frames are the product's."""

import random
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def wire_bytes(monkeypatch):
    """benchmarks/wire_bytes.py as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import wire_bytes

    return wire_bytes


def log(path, lines):
    chance = random.Random(path.name)
    path.write_text(
        "".join(f"INFO request {chance.randrange(10**9)} of {path.stem} took {n} ms\n" for n in range(lines))
    )
    return path


def test_each_log_has_a_row_and_so_have_all_of_them(wire_bytes, tmp_path):
    """For each batch size three ways; the more entries a batch, the fewer bytes each of them takes alone."""
    logs = [log(tmp_path / f"{name}.log", 120) for name in ("web", "db")]
    by_size = {size: wire_bytes.streams(logs, size, once=False) for size in (10, 60)}
    _, _, *rows = wire_bytes.table(by_size)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(name, entries) for name, entries, *_ in cells] == [("web", "120"), ("db", "120"), ("all of them", "240")]
    for _, _, raw, gzip_10, zstd_10, session_10, gzip_60, zstd_60, session_60 in cells:
        session_10, ratio = session_10.removesuffix(")").split(" (")
        assert float(raw) > float(gzip_10) > float(gzip_60) > float(session_60.split()[0])
        assert float(zstd_10) > float(zstd_60)
        assert float(ratio) == pytest.approx(float(gzip_10) / float(session_10), rel=0.01)


def test_a_large_batch_of_a_session_is_a_frame_of_its_own(wire_bytes):
    """As the spool stores it, and the wire and the archive have it; a small one goes on in the context."""
    from logbale.compression import decompress
    from logbale.context import ContextDecompressor
    from logbale.protocol import Algorithm

    small = b'[{"message":"one"},{"message":"two"}]'
    large = b"[" + b",".join(b'{"message":"%d"}' % number for number in range(10_000)) + b"]"
    encode = wire_bytes.session()
    bodies = [encode(array) for array in (small, large, small)]
    lines = b'{"message":"one"}\n{"message":"two"}\n'
    context = ContextDecompressor(Algorithm.ZSTD, window_log=17)
    assert [context.decompress(body, len(lines)) for body in bodies[::2]] == [lines, lines]
    assert decompress(Algorithm.ZSTD, bodies[1], max_raw=len(large)).count(b"\n") == 10_000
