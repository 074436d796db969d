"""`promptsg finalize`."""

from jobs.runs.finalize import command

__all__ = ["command"]
