"""`logbale` with system calls that lie, for controls and for what a real disk does too rarely: never used elsewhere.

CHAOS_TAMPER=unsynced makes fsync and fdatasync do nothing: a run with power cuts must then lose entries, or they cut
nothing. CHAOS_TAMPER=short makes most writes to files write less than they were given, as the system may.
"""

import os
import random
import sys


def tamper(how: str) -> None:
    """Replaces the calls in the os module, which everything in logbale that syncs or writes looks up there."""
    if how == "unsynced":
        os.fsync = os.fdatasync = lambda fd: None
    elif how == "short":
        whole_write, whole_pwrite = os.write, os.pwrite
        chance = random.Random(os.getpid())

        def part(data):
            view = memoryview(data)
            return view[: chance.randrange(1, len(view) + 1)] if len(view) else view

        os.write = lambda fd, data: whole_write(fd, part(data))
        os.pwrite = lambda fd, data, offset: whole_pwrite(fd, part(data), offset)
    else:
        sys.exit(f"CHAOS_TAMPER={how!r}: expected unsynced or short")


if __name__ == "__main__":
    tamper(os.environ["CHAOS_TAMPER"])
    from logbale.cli import main

    sys.exit(main())
