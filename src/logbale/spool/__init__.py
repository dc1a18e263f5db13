"""The shipper's queue between reading and sending: durable on disk (DiskSpool), or in memory where there is no disk.

format: the bytes. segment: one file. state: what a snapshot holds. recovery: what a start makes of what a crash left.
disk: the spool itself. dead_letters: rejected batches. places: where spools lie. inspect: looking without touching.
"""

from logbale.spool.memory import MemorySpool

__all__ = ["MemorySpool"]
