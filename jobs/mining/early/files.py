"""A checkpoint, a file, a device or a precision that is not there, told without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jobs.errors import UserError
from jobs.reading import check_files
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from promptsg_core.choices import check_device_name, check_precision_name


def check_checkpoint_file(checkpoint: Path) -> None:
    """Raises UserError for a checkpoint that is not there, or that cannot be opened."""
    if not checkpoint.is_file():
        raise UserError(f"the checkpoint {checkpoint} does not exist or is not a file")
    check_files([checkpoint])


def check_model_words(
    checkpoint: Path,
    device: str = "auto",
    precision: str | None = None,
    *,
    files: Iterable[object] = (),
    reference: Path | None = None,
) -> None:
    """What is named beside a model: `files` are further ones that are read later, and those that are no path are left
    out; `reference` is a run.

    Raises UserError for a checkpoint, a file or a run that is not there, and ModelError for what is no device or no
    precision.
    """
    check_device_name(device)
    if precision is not None:
        check_precision_name(precision)
    check_checkpoint_file(checkpoint)
    check_files(file for file in files if isinstance(file, Path))
    if reference is not None:
        read_manifest(RunLayout(reference))
