"""The shippers that peers.py compares with logbale, a file each, and how a round of one is run and judged."""
