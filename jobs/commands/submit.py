"""`promptsg submit`."""

from jobs.submission.submit import command

__all__ = ["command"]
