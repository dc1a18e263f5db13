"""Store and forward: what a receiver does whose sink is another receiver (decision 0016).

spool: the batches of one origin's stream, under the origin's numbers. strand: their disks' threads. queue: between such
a spool and its session upstream. origin: one stream, its spool open or not. spools: all of them, in a directory.
forwarding: which streams have a session now. reserve: room for a full disk. totals: the numbers. upstream: a relay's
settings as a shipper. end: what makes a relay of a receiver. The sink that is made of them is sinks/relay.py.
"""
