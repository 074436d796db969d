"""`promptsg faithfulness`."""

from jobs.faithfulness.measure import command

__all__ = ["command"]
