"""A checkpoint, a device or a precision that is not there, told without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jobs.errors import UserError
from promptsg_core.choices import check_device_name, check_precision_name


def check_model_words(checkpoint: Path, device: str = "auto", precision: str | None = None) -> None:
    """Raises UserError for a checkpoint that is not there, and ModelError for what is no device or no precision."""
    check_device_name(device)
    if precision is not None:
        check_precision_name(precision)
    if not checkpoint.is_file():
        raise UserError(f"the checkpoint {checkpoint} does not exist or is not a file")


def check_files(paths: Iterable[Path]) -> None:
    """Raises UserError for the first file that cannot be opened."""
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
