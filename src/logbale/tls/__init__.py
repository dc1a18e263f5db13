"""TLS for all ports and for the shipper.

material: contexts out of files. files: made anew when those change. names: who a certificate is for. failures: what
went wrong, in words. transport: TLS between a socket and a protocol; server, client: its two ends. making: a test CA.
"""
