"""`promptsg gallery`."""

from jobs.rendering.gallery import command

__all__ = ["command"]
