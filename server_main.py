"""The receiver with the environment's settings alone; `logbale receive` has flags and a settings file too.

Prints the entries that it stores, unless SINK says otherwise.
"""

import sys

from logbale.cli.options import loader
from logbale.cli.output import start_log
from logbale.cli.receive import serve
from logbale.cli.running import exit_code


def main() -> int:
    """Receives until SIGTERM or Ctrl-C; the exit code."""
    start_log("info")
    return serve(loader("receive", defaults={"sink": "archive,console"}))


if __name__ == "__main__":
    sys.exit(exit_code(main))
