"""`promptsg status`."""

from jobs.runs.status import command

__all__ = ["command"]
