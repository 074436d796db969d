"""Damaged images of every format: each is pixels of the size that its header states, or that row's failure."""

from __future__ import annotations

import functools
import io
import random
import resource
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, features

from jobs.shards.decoding import DecodedSize, Decoding, DecodingFailure, decode_batch
from promptsg_core.errors import ImageError
from promptsg_core.images import decode_pixels, read_header

CASES, MANY_CASES = 25, 4000  # of each form
SECONDS_OF_ONE = 10.0
LIMIT = 4_000_000  # pixels
HOW = Decoding(image_size=(16, 8), max_image_pixels=LIMIT)
MEMORY = 1 << 30


@functools.cache
def picture(mode: str) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
    return small.resize((24, 48), Image.Resampling.BICUBIC).convert(mode)


def saved(form: str, mode: str = "RGB", **options: object) -> Callable[[], bytes]:
    def save() -> bytes:
        out = io.BytesIO()
        picture(mode).save(out, form, **options)
        return out.getvalue()

    return save


def sixteen_bit_png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (48, 24), dtype=np.uint16)).save(out, "PNG")
    return out.getvalue()


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return saved("JPEG", exif=exif)()


FORMS: dict[str, Callable[[], bytes]] = {
    "jpeg": saved("JPEG"),
    "jpeg_grey": saved("JPEG", "L"),
    "jpeg_cmyk": saved("JPEG", "CMYK"),
    "jpeg_progressive": saved("JPEG", progressive=True),
    "jpeg_turned": turned_jpeg,
    "png": saved("PNG"),
    "png_alpha": saved("PNG", "RGBA"),
    "png_palette": saved("PNG", "P"),
    "png_16": sixteen_bit_png,
    "webp": saved("WEBP"),
    "webp_lossless": saved("WEBP", lossless=True),
    "bmp": saved("BMP"),
    "gif": saved("GIF", "P"),
    "tiff": saved("TIFF"),
    "tiff_deflate": saved("TIFF", compression="tiff_adobe_deflate"),
    "tiff_lzw": saved("TIFF", compression="tiff_lzw"),
    "ppm": saved("PPM"),
    **({"avif": saved("AVIF")} if features.check("avif") else {}),
}
assert all(features.check(name) for name in ("webp", "libtiff"))


def damage(rng: random.Random, whole: bytes) -> bytes:
    """Bytes after one to four accidents, half of them in the first 64 bytes, where sizes and tables are."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(64, len(data)) if rng.random() < 0.5 and data else len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", rng.randbytes(4)))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        else:
            data[at:at] = data[at : at + rng.randint(1, 200)]
    return bytes(data)


def test_the_forms_are_read_before_they_are_damaged() -> None:
    for name, form in FORMS.items():
        height, width = (24, 48) if name == "jpeg_turned" else (48, 24)
        assert decode_pixels(form()).shape == (height, width, 3), name


@pytest.mark.parametrize("cases", [CASES, pytest.param(MANY_CASES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_image_is_pixels_or_its_row_s_failure(form: str, cases: int) -> None:
    whole = FORMS[form]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    seen: Counter[str] = Counter()
    for seed in range(cases):
        data = damage(random.Random(f"{form} {seed}"), whole)
        started = time.monotonic()
        (outcome,) = decode_batch([data], HOW).outcomes
        assert time.monotonic() - started < SECONDS_OF_ONE, f"seed {seed}"
        seen[outcome.status if isinstance(outcome, DecodingFailure) else "ok"] += 1
        if isinstance(outcome, DecodedSize):
            header = read_header(data)
            assert (outcome.width, outcome.height) == (header.width, header.height), f"seed {seed}"
            assert outcome.width * outcome.height <= LIMIT, f"seed {seed}"
        else:
            assert isinstance(outcome, DecodingFailure) and outcome.error and "\n" not in outcome.error, f"seed {seed}"
            with pytest.raises((ImageError, MemoryError)):
                decode_pixels(data, max_pixels=LIMIT)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    print(f"{form}: {cases} damaged images: {dict(seen)}; {grown >> 20} MB more than before")
    assert grown < MEMORY
    assert seen.total() == cases and seen["image_corrupt"] and set(seen) <= {"ok", "image_corrupt", "image_too_large"}
