"""`promptsg bench`."""

from jobs.benchmark.bench import command

__all__ = ["command"]
