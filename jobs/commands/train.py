"""`promptsg train`."""

from jobs.training.settings import command

__all__ = ["command"]
