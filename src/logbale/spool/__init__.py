"""The shipper's queue between reading and sending: durable on disk (DiskSpool), or in memory where there is no disk.

format: the bytes. segment: one file. catalogue: which batch is where. state: what a snapshot holds. journal: writing.
recovery: what a start makes of what a crash left. batches: what becomes of each. disk: the spool itself. dead_letters:
rejected batches. identity: names, places and stream ids. inspect: looking at a spool without touching it. finite: its
end with a run's. store: what the queue asks of either. fresh: what is sent without being read back.
"""

from logbale.spool.batches import DamagedError, Record
from logbale.spool.disk import DiskSpool
from logbale.spool.finite import removed_if_unused, removed_when_finished
from logbale.spool.format import Skip
from logbale.spool.identity import spool_name, spool_root
from logbale.spool.inspect import Damaged, SpoolInfo, export, list_spools, verify
from logbale.spool.memory import MemoryStore

__all__ = [
    "Damaged",
    "DamagedError",
    "DiskSpool",
    "MemoryStore",
    "Record",
    "Skip",
    "SpoolInfo",
    "export",
    "list_spools",
    "removed_if_unused",
    "removed_when_finished",
    "spool_name",
    "spool_root",
    "verify",
]
