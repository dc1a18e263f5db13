"""The receiver with the environment's settings alone; `logbale receive` has flags and a settings file too.

Prints the entries that it stores, unless SINK says otherwise.
"""

import logging
import os
import sys

from logbale.cli.output import start_log
from logbale.cli.receive import serve
from logbale.cli.running import exit_code
from logbale.config import load


def main() -> int:
    """Receives until SIGTERM or Ctrl-C; the exit code."""
    start_log(logging.INFO)
    return serve(load({}, os.environ, defaults={"sink": "archive,console"}).settings)


if __name__ == "__main__":
    sys.exit(exit_code(main))
