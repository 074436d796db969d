"""What is a mask and what is not, by its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.statistics.localisation.mask_image import MaskError, read_labels
from tests.statistics.localisation.made_masks import (
    LABELS,
    palette_png,
    png,
    raw_png,
)


@pytest.mark.parametrize(
    "data",
    [
        png(LABELS),
        palette_png(LABELS),
        png(LABELS.astype(np.uint16)),
        raw_png(LABELS, 2),
        raw_png(LABELS, 4),
    ],
    ids=["grey", "palette", "16 bits", "2 bits", "4 bits"],
)
def test_labels_of_every_kind_of_png(data: bytes) -> None:
    np.testing.assert_array_equal(read_labels(data), LABELS)


def test_a_mask_of_one_bit() -> None:
    np.testing.assert_array_equal(read_labels(raw_png(LABELS.clip(0, 1), 1)), LABELS > 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"label map", "not a PNG"),
        (png(LABELS, form="JPEG"), "not a PNG"),
        (png(np.zeros((4, 4, 3), np.uint8)), "colours, not labels"),
        (png(np.zeros((4, 4, 4), np.uint8)), "colours, not labels"),
        (png(np.full((4, 4), 256, np.uint16)), "16 bits with the label 256"),
        (png(np.arange(4096, dtype=np.uint8).reshape(64, 64))[:60], "."),
    ],
    ids=["empty", "text", "jpeg", "rgb", "rgba", "16 bits", "cut"],
)
def test_what_is_no_mask(data: bytes, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        read_labels(data)
