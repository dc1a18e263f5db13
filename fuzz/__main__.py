"""python -m fuzz TARGET [--seconds N] [--plain] [FILE…]: one target with atheris, or with our plain driver without it.

With files, those inputs alone: how a finding is looked at again. What coverage finds new is kept in .run/fuzz/TARGET, a
finding in .run/fuzz/TARGET-…; --keep puts the few of the former that reach all that the others do into fuzz/corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus"
FOUND = ROOT / ".run" / "fuzz"

NO_ATHERIS = """\
atheris is not here: it has wheels for some Pythons only, and this one is %d.%d. The plain driver (fuzz/mutate.py) runs
the same target without looking at coverage, so it gets less far into the formats."""


def main() -> None:
    """Exits with 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", help="a name in fuzz/corpus")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--keep", action="store_true", help="of what was found, what reaches the most: into the corpus")
    parser.add_argument("--inner", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run, and nothing else")
    options = parser.parse_args()
    logging.getLogger("logbale").setLevel(logging.CRITICAL)
    has_atheris = importlib.util.find_spec("atheris") is not None
    if has_atheris and not (options.plain or options.files):
        _with_coverage(options.target, options.seconds, keep=options.keep, inner=options.inner)
        return
    from fuzz import mutate, targets

    target = targets.TARGETS[options.target]
    if options.files:
        for path in options.files:
            target(path.read_bytes())
        return
    if not has_atheris:
        print(NO_ATHERIS % sys.version_info[:2])
    seeds = [path.read_bytes() for path in sorted((CORPUS / options.target).iterdir())]
    seed = random.SystemRandom().randrange(2**32)
    times = mutate.run(target, seeds, seconds=options.seconds, seed=seed)
    print(f"{options.target}: {times} runs in {options.seconds} s with seed {seed}, nothing found")


KEPT_BYTES = 1024
"""Of an input in fuzz/corpus: what only a longer one reaches is found again soon enough."""


def _with_coverage(name: str, seconds: int, *, keep: bool, inner: list[str] | None) -> None:
    import atheris

    with atheris.instrument_imports(include=["logbale", "fuzz"], enable_loader_override=False):
        from fuzz import targets
    kept = FOUND / name
    kept.mkdir(parents=True, exist_ok=True)
    limits = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        "-print_final_stats=1",
    ]
    program, arguments = sys.argv[0], [*limits, f"-artifact_prefix={FOUND / name}-", str(kept), str(CORPUS / name)]
    if keep:
        # A cover of all that is reached, added to what is there already. libFuzzer starts itself anew for that.
        program = str(FOUND / f"{name}-again")
        Path(program).write_text(f'#!/bin/sh\nexec {sys.executable} -m fuzz {name} --inner "$@"\n')
        Path(program).chmod(0o700)
        arguments = ["-set_cover_merge=1", f"-max_len={KEPT_BYTES}", str(CORPUS / name), str(kept)]
    atheris.Setup([program, *(inner if inner is not None else arguments)], targets.TARGETS[name])
    atheris.Fuzz()


main()
