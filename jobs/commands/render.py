"""`promptsg render`."""

from jobs.rendering.render import command

__all__ = ["command"]
