"""Every algorithm and level on generated entries, or on the log files that are named: `logbale bench` and its flags."""

import sys

from logbale.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
