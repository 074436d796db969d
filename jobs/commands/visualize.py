"""`promptsg visualize`."""

from jobs.rendering.visualize import command

__all__ = ["command"]
