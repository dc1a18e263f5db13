"""Hostile bytes for everything that reads what a stranger wrote: `python -m fuzz` (make fuzz). See docs/fuzzing.md."""
