"""python -m chaos: harms logbale in every way on the list, and says what became of the entries."""

import argparse
import importlib
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chaos.report import as_json, summary, table
from chaos.suite import FAULTS, YARDSTICK, Result, perform

MODULES = (
    *("crash", "reload", "calls", "power", "network", "link"),
    *("disk", "spool", "tail", "load", "viewers", "clock", "fleet"),
)


def main() -> int:
    """0 where every fault passed or was skipped, 1 where a promise was broken, 2 for wrong usage.

    The last line is `N passed, N failed, N skipped`.
    """
    for name in MODULES:
        importlib.import_module(f"chaos.faults_{name}")
    options = _options()
    known = {fault.number for fault in FAULTS}
    if unknown := set(options.faults) - known:
        print(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(f.number for f in FAULTS)}")
        return 2
    _unshare_mounts()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    chosen = [fault for fault in FAULTS if fault.number in (options.faults or known)]
    work = [(fault, options.times or fault.times(options.length)) for fault in chosen]
    work = [(fault, times) for fault, times in work if times]
    print(f"chaos {options.length}: {len(work)} faults, seed {seed} (again: --seed {seed})", flush=True)

    def one(item: tuple) -> Result:
        result = perform(*item, seed, keep=options.keep)
        state = "FAILED" if result.failures else "skipped" if result.skipped else "ok"
        print(f"{time.strftime('%H:%M:%S')} {result.number} {state}, {result.seconds:.0f} s, seed {seed}", flush=True)
        for failure in result.failures:
            print(f"  {failure}", flush=True)
        return result

    YARDSTICK.start()
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(one, work))
    YARDSTICK.stop()
    print(f"\n{table(results)}\n{YARDSTICK}")
    if options.json:
        options.json.write_text(as_json(results, options.length, seed))
    print(f"seed {seed} (again: --seed {seed})\n{summary(results)}", flush=True)
    return 1 if any(result.failures for result in results) else 0


def _unshare_mounts() -> None:
    """Starts anew in a mount namespace of its own, where this machine lets it.

    Any process that makes a namespace meanwhile (`ip netns exec`, a container) would get a copy of every disk that is
    mounted just then, and a file system that lost its power would live on there: mounted again, it is still dead.
    """
    if "CHAOS_UNSHARED" in os.environ or shutil.which("unshare") is None:
        return
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return  # the faults that mount disks will say why they cannot
    command = ["unshare", "--mount", sys.executable, "-m", "chaos", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, "CHAOS_UNSHARED": "1"})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__, epilog="docs/chaos.md has the rest.")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="only these, by number: F1 F7-control")
    parser.add_argument("--length", choices=("smoke", "tenth", "full"), default="tenth", help="how often each bites")
    parser.add_argument("--times", type=int, metavar="N", help="this often instead")
    parser.add_argument("--seed", type=int, metavar="N", help="that of an earlier run, to repeat its choices")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="faults at a time (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results for a machine")
    parser.add_argument("--keep", action="store_true", help="leave the directory of a fault that failed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
