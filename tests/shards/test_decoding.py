"""Batches of image bytes to pixels: what is decoded, what is not and why."""

from __future__ import annotations

import pytest
import torch

from jobs.shards.columns import SampleColumns
from jobs.shards.decoding import DecodedSize, Decoding, DecodingFailure, decode_batch, record_outcomes
from jobs.shards.samples import IMAGE_CORRUPT, IMAGE_TOO_LARGE, OK, Sample
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.shard_files import image_bytes, textured_image

HOW = Decoding(image_size=(16, 8), interpolation="bicubic", max_image_pixels=2000)
IMAGES = [textured_image(1, (32, 16)), b"hello", image_bytes(2, (50, 60), "PNG"), textured_image(3, (20, 10))]


def test_a_batch_has_the_good_images_and_an_outcome_for_each() -> None:
    batch = decode_batch(IMAGES, HOW)
    assert batch.outcomes == [
        DecodedSize(width=16, height=32),
        DecodingFailure(IMAGE_CORRUPT, "no image format that is known here"),
        DecodingFailure(IMAGE_TOO_LARGE, "60x50 pixels, more than max_image_pixels 2000"),
        DecodedSize(width=10, height=20),
    ]
    wanted = [resize_image(decode_image(IMAGES[number]), (16, 8), "bicubic") for number in (0, 3)]
    assert torch.equal(batch.images, torch.stack(wanted)) and batch.images.dtype == torch.uint8
    assert batch.seconds > 0


def test_outcomes_are_recorded_in_samples() -> None:
    samples = SampleColumns.of(Sample(key=str(number), tar_index=number) for number in range(4))
    record_outcomes(samples, decode_batch(IMAGES, HOW).outcomes)
    assert [(sample.status, sample.width, sample.height) for sample in samples] == [
        (OK, 16, 32), (IMAGE_CORRUPT, None, None), (IMAGE_TOO_LARGE, None, None), (OK, 10, 20)]  # fmt: skip


def test_nothing_decodes() -> None:
    assert decode_batch([b""], HOW).images.shape == (0, 3, 16, 8)
    assert decode_batch([], HOW).outcomes == []


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(64, 128), (61, 127), (128, 256), (300, 200), (8, 5), (256, 128)])
def test_neighbours_of_one_size_have_the_bytes_of_each_alone(interpolation: str, shape: tuple[int, int]) -> None:
    """Nineteen images are more than two calls, and one of another size lies between them."""
    images = [textured_image(number, shape) for number in range(19)]
    images.insert(11, textured_image(99, (33, 44)))
    how = Decoding(image_size=(128, 64), interpolation=interpolation)
    into = torch.zeros((24, 3, 128, 64), dtype=torch.uint8)
    found = decode_batch(images, how, into)
    wanted = torch.stack([resize_image(decode_image(image), (128, 64), interpolation) for image in images])
    assert torch.equal(found.images, wanted) and torch.equal(into[:20], wanted) and not into[20:].any()
    assert found.images.data_ptr() == into.data_ptr()
