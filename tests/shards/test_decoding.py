"""Batches of image bytes to pixels: what is decoded, what is not and why."""

from __future__ import annotations

import torch

from jobs.shards.decoding import DecodedSize, Decoder, Decoding, DecodingFailure, decode_batch, result_of
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
    samples = [Sample(key=str(number), tar_index=number) for number in range(4)]
    for sample, outcome in zip(samples, decode_batch(IMAGES, HOW).outcomes, strict=True):
        outcome.record_in(sample)
    assert [(sample.status, sample.width, sample.height) for sample in samples] == [
        (OK, 16, 32), (IMAGE_CORRUPT, None, None), (IMAGE_TOO_LARGE, None, None), (OK, 10, 20)]  # fmt: skip


def test_nothing_decodes() -> None:
    assert decode_batch([b""], HOW).images.shape == (0, 3, 16, 8)
    assert decode_batch([], HOW).outcomes == []


def test_workers_decode_to_the_same_bytes() -> None:
    here, there = Decoder(HOW, 0), Decoder(HOW, 1)
    try:
        one, other = result_of(here.submit(IMAGES)), result_of(there.submit(IMAGES))
    finally:
        there.close()
    assert torch.equal(one.images, other.images) and one.outcomes == other.outcomes
