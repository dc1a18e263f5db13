"""Faults, on purpose: real processes, sockets and disks are harmed, and an oracle that knows nothing of logbale counts.

load: numbered lines. oracle: what became of them. processes: both ends as their users start them. network and disk:
what harms a connection and a file system. suite: what a fault is and how one runs. faults_*: the faults themselves, by
what they harm. report: the table. `python -m chaos --help` has the rest.
"""
