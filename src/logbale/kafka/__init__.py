"""Batches in a Kafka topic: what a message says (message), parts of one put together (assembly)."""
