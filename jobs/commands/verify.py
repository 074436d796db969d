"""`promptsg verify`."""

from jobs.runs.verify import command

__all__ = ["command"]
