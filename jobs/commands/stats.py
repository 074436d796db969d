"""`promptsg stats`."""

from jobs.statistics.stats import command

__all__ = ["command"]
