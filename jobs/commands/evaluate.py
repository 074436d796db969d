"""`promptsg evaluate`."""

from jobs.retrieval.evaluate import command

__all__ = ["command"]
