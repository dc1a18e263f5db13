"""python -m logbale: the command line."""

from logbale.cli import main

if __name__ == "__main__":
    main()
