"""Camera embeddings (SIE of TransReID, arXiv:2102.04378): which row of the embedding each image gets.

Rows are the cameras of the training set, counted from 0. Another camera has no row, and nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from promptsg_core.errors import ModelError

# What may stand for a camera that is not known.
FALLBACKS = ("mean", "none")
# (B,) camera numbers from 0; the same number for all images; the mean of all rows; no camera at all.
Cameras = Tensor | int | Literal["mean", "none"]


def refuse_cameras(cameras: Cameras | None) -> None:
    """For a model without a camera embedding: raises ModelError for anything but None and "none", which ask for no
    camera.
    """
    if cameras is not None and not (isinstance(cameras, str) and cameras == "none"):
        raise ModelError("cameras were given, and this model uses no camera embedding: leave cameras= out")


def camera_rows(
    embedding: Tensor | None, cameras: Cameras | None, count: int, fallbacks: Sequence[str] = FALLBACKS
) -> Tensor | None:
    """(R, D) rows and the cameras of `count` images -> (B, D) or (1, D); None where no camera is to be added.

    The embedding is None for a model that uses none. `fallbacks` are those of FALLBACKS that the model allows. Raises
    ModelError where no cameras are given, for another number of them, for numbers that are not whole, and for a camera
    without a row; for a model without an embedding as `refuse_cameras` does. Numbers on a GPU are not read by the host,
    which would have to wait for them: there a camera without a row makes its image's row NaN, and so all its results.
    """
    if embedding is None:
        refuse_cameras(cameras)
        return None
    rows, instead = len(embedding), " or ".join(map(repr, fallbacks))
    if cameras is None:
        raise ModelError(
            f"this model has a camera embedding of {rows} rows: give cameras=, numbers from 0 to {rows - 1}, or "
            f"{instead}"
        )
    if isinstance(cameras, str):
        if cameras not in fallbacks:
            raise ModelError(f"cameras are {cameras!r}; give numbers from 0 to {rows - 1}, or {instead}")
        return embedding.mean(dim=0, keepdim=True) if cameras == "mean" else None
    given = torch.as_tensor(cameras)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        kind = str(given.dtype).removeprefix("torch.")
        raise ModelError(f"cameras are of type {kind}; give whole numbers from 0 to {rows - 1}, or {instead}")
    if given.ndim and given.numel() != count:
        raise ModelError(f"{given.numel()} cameras were given for {count} images")
    numbers = given.long().reshape(-1)  # of bytes, torch would make a mask
    if given.device.type != "cpu":
        outside = (numbers < 0) | (numbers >= rows)
        return embedding[numbers.clamp(0, rows - 1)].masked_fill(outside.unsqueeze(1), torch.nan)
    check_rows(given, rows)
    if not given.ndim:
        return embedding[int(given.item())].unsqueeze(0)  # a view: nothing is copied to a GPU
    return embedding[numbers.to(embedding.device)]


def check_rows(numbers: Tensor, rows: int) -> None:
    """Raises ModelError for a camera, of numbers on the CPU, that has none of so many rows."""
    if wrong := [number for number in numbers.flatten().tolist() if not 0 <= number < rows]:
        raise ModelError(f"camera {wrong[0]} was given, and the camera embedding has {rows} rows, from 0")
