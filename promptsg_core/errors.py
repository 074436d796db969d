"""The errors of this package that a user can cause; importable without torch."""

from __future__ import annotations


class ModelError(ValueError):
    """A checkpoint, a configuration or an input that the model cannot take; the message says which and why."""


class CheckpointError(ModelError):
    """A file that is no loadable PromptSG checkpoint; the message names the file and the reason."""


class ImageError(ModelError):
    """Bytes that are not an image we can use; the message is the reason, fit for one row of a table."""
