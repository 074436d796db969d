"""The errors of this package that a user can cause; importable without torch."""

from __future__ import annotations


class CamError(ValueError):
    """A map, layer or target that was asked for and cannot be computed; the message names the valid ones."""
