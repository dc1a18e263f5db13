"""Files that are followed: which there are, what tells one from another, what is new in them, and when to look."""

from logbale.sources.tail.source import TailSource

__all__ = ["TailSource"]
