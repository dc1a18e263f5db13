"""The archive: segments of checked, compressed blocks that plain zstd tools read as NDJSON.

format: the bytes. layout: names and order.
walk, reader: reading. segment, sealing, sealer, recovery: the parts of the writer. writer: what batches are given to.
"""
