"""The shipper on generated entries, LOG_RATE a second for RUN_TIME seconds, with the environment's settings alone.

`logbale ship` ships files and standard input, and has flags and a settings file too.
"""

import sys

from logbale.cli.options import loader
from logbale.cli.output import start_log
from logbale.cli.running import exit_code
from logbale.cli.ship import ship_generated


def main() -> int:
    """Ships until RUN_TIME is over, SIGTERM or Ctrl-C; the exit code."""
    start_log("info")
    return ship_generated(loader("ship"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
