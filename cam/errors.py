"""The errors of this package that a user can cause; importable without torch."""

from __future__ import annotations


class CamError(ValueError):
    """A requested map, layer or target that cannot be computed; the message names the valid ones."""
