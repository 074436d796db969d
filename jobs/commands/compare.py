"""`promptsg compare`."""

from jobs.rendering.compare import command

__all__ = ["command"]
