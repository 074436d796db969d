"""What follows from the shapes of a checkpoint's tensors, for any family that reads patches.

Where shapes do not tell, the user states it, and what is stated must agree with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from promptsg_core.config import FieldValue, grid_of
from promptsg_core.errors import CheckpointError, ModelError
from promptsg_core.families.published import layouts_of

_HEAD_WIDTH = 64  # of the transformers that all published models start from; no tensor tells the number of heads
_SMALLEST_TEXT_HEADS = 8  # narrow text towers keep the 8 heads of ViT-B/16's
_VIEWED_ROWS = 160  # 20 cameras times 8 views of VeRi


def refuse_contradictions(given: Mapping[str, FieldValue], known: Mapping[str, FieldValue]) -> None:
    """Raises ModelError, naming both values, where a stated field is another than the tensors say."""
    for name, value in given.items():
        if name in known and known[name] != value:
            raise ModelError(f"{name} is {value} in the configuration, but the checkpoint's tensors say {known[name]}")


def layout_of(
    rows: int, patch: int, given: Mapping[str, FieldValue], usual: tuple[int, int] | None = None
) -> tuple[tuple[int, int], int]:
    """(image size, stride) whose grid has as many patches as the positional embedding has rows besides CLS.

    Where several have, `usual` is the grid of which a family's models are. Raises ModelError where none fits what is
    stated, and where it must be stated.
    """
    if "image_size" in given or "stride" in given:
        size, stride = _pair(given.get("image_size", (16 * patch, 8 * patch))), _integer(given.get("stride", patch))
        h, w = grid_of(size, patch, stride)
        if stride > patch:
            raise ModelError(
                f"stride {stride} would leave out pixels between patches of {patch}: it is at most {patch}"
            )
        if h * w == rows:
            return size, stride
        raise ModelError(
            f"image size {size} with stride {stride} gives a grid of {h}x{w} = {h * w} patches, "
            f"but the checkpoint's positional embedding has {rows}"
        )
    fitting = layouts_of(rows, patch)
    if len(fitting) > 1 and usual is not None:
        fitting = [one for one in fitting if grid_of(one[0], patch, one[1]) == usual] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = " or ".join(f"{_by(grid_of(size, patch, step))} (images of {_by(size)})" for size, step in fitting)
        (height, width), _ = fitting[0]
        raise ModelError(
            f"the positional embedding has {rows} patches, which are {listed}: say which by --image-size "
            f"{height}x{width} or INPUT.SIZE_TEST '[{height}, {width}]'"
        )
    raise ModelError(
        f"the positional embedding has {rows} patches, which is no known layout: give the image size and the stride "
        f"(for example INPUT.SIZE_TEST '[256, 128]' MODEL.STRIDE_SIZE '[16, 16]')"
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def shape_of(state: Mapping[str, Tensor], key: str, dims: int = 2) -> tuple[int, ...]:
    """A tensor's shape. Raises CheckpointError where it is missing or has another number of dimensions."""
    if key not in state:
        raise CheckpointError(f"the tensor {key} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != dims or 0 in shape:
        raise CheckpointError(f"the tensor {key} has shape {shape}, expected {dims} dimensions, none of them 0")
    return shape


def _pair(value: FieldValue) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ModelError(f"image_size is {value!r}, expected (height, width)")
    return int(value[0]), int(value[1])


def _integer(value: FieldValue) -> int:
    if type(value) is not int or value < 1:
        raise ModelError(f"stride is {value!r}, expected a number of pixels")
    return value


def count_of(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the first group of the pattern has among the keys."""
    numbers = {int(found[1]) for key in state if (found := re.match(pattern, key))}
    return len(numbers)


def heads_of(width: int) -> int:
    """How many heads a transformer of this width has in published models."""
    return max(1, width // _HEAD_WIDTH)


def text_heads_of(width: int) -> int:
    """The same for a text tower."""
    return max(_SMALLEST_TEXT_HEADS, width // _HEAD_WIDTH)


def camera_rows_of(
    state: Mapping[str, Tensor], key: str, given: Mapping[str, FieldValue], *, dims: int, with_views: str
) -> int:
    """The rows of a camera embedding, 0 without one. Raises CheckpointError where views have rows in it.

    `with_views` says for people what the rows are then.
    """
    if key not in state:
        return 0
    rows = shape_of(state, key, dims)[0]
    if given.get("sie_view") is True or rows == _VIEWED_ROWS:
        raise CheckpointError(f"{key} has {rows} rows, of {with_views} (MODEL.SIE_VIEW): shards know no views")
    return rows
