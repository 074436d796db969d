"""The errors of this package that a user can cause; importable without torch."""

from __future__ import annotations


class ModelError(ValueError):
    """A checkpoint, a configuration or an input that the model cannot use; the message says which and why."""


class CheckpointError(ModelError):
    """A file that is not a loadable PromptSG checkpoint; the message names the file and the reason."""


class ImageError(ModelError):
    """Bytes that are not a usable image; the message is the reason, short enough for a row of a table."""
