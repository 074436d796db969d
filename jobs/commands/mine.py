"""`promptsg mine`."""

from jobs.mining.mine import command

__all__ = ["command"]
