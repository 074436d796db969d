"""Decoding and resizing against Pillow, bit for bit, and every kind of image that a dataset may hold."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, features

from promptsg_core.errors import ImageError
from promptsg_core.image_formats import format_of, is_surely_image
from promptsg_core.images import ImageTooLargeError, decode_pixels, plain_jpeg_size, read_header
from promptsg_core.preprocess import decode_image, normalise, read_image, resize_image
from tests.support.shard_files import image_bytes, textured_image


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def gradient(width: int = 20, height: int = 40) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("size", [(64, 32), (33, 57), (300, 140)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_decoding_and_resizing_give_pillows_bytes(size: tuple[int, int], interpolation: str) -> None:
    data = textured_image(3, size)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    image = decode_image(data)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))
    resized = picture.resize((128, 256), Image.Resampling[interpolation.upper()])
    found = resize_image(image, (256, 128), interpolation).permute(1, 2, 0).numpy()
    grows = interpolation == "bilinear" and size[0] < 256
    assert np.abs(found.astype(int) - np.asarray(resized)).max() <= (0 if grows else 2)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_other_formats_give_pillows_bytes(form: str) -> None:
    data = encoded(gradient(), form)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data).permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    image = decode_image(encoded(gradient().convert("L"), form))
    assert image.shape == (3, 40, 20)
    assert torch.equal(image[0], image[1]) and torch.equal(image[1], image[2])
    assert image.float().std() > 20


def test_cmyk_looks_right() -> None:
    image = decode_image(encoded(Image.new("RGB", (16, 16), (200, 60, 20)).convert("CMYK"), "JPEG", quality=95))
    assert (image.float().mean((1, 2)) - torch.tensor([200.0, 60.0, 20.0])).abs().max() < 6


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_palettes_transparency_and_bitmaps(mode: str) -> None:
    data = encoded(gradient().convert(mode), "PNG")
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert wanted.std() > 20
    np.testing.assert_array_equal(decode_image(data).permute(1, 2, 0).numpy(), wanted)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    image = decode_image(encoded(Image.fromarray(values), "PNG"))
    assert image[0, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    data = encoded(gradient(20, 40), form, exif=exif.tobytes())
    image = decode_image(data)
    assert image.shape == (3, 20, 40)
    # Red rises to the right in the stored picture, so downwards in the upright one.
    assert image[0, -1].float().mean() > image[0, 0].float().mean() + 150


def test_one_pixel() -> None:
    image = decode_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"))
    assert resize_image(image, (32, 16))[:, 5, 5].tolist() == [9, 8, 7]


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_gives_pillows_pixels(mode: str, progressive: bool, subsampling: int) -> None:
    for number, size in enumerate([(1, 1), (7, 13), (64, 128), (61, 127)]):
        coarse = np.random.default_rng(number).integers(0, 255, (4, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size).convert(mode)
        data = encoded(picture, "JPEG", quality=85, progressive=progressive, subsampling=subsampling)
        np.testing.assert_array_equal(decode_pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert plain_jpeg_size(data) == (None if mode == "CMYK" else size)


def test_a_truncated_or_turned_jpeg_is_not_plain() -> None:
    data = textured_image(1)
    assert plain_jpeg_size(data) == (16, 32)
    assert all(plain_jpeg_size(data[:length]) is None for length in range(len(data)))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_jpeg_size(encoded(gradient(), "JPEG", exif=exif.tobytes())) is None


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + (1 << 20).to_bytes(4, "big") + b"IDAT" + b"\0" * 64


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageTooLargeError, match="30000x30000 pixels, more than max_image_pixels 100000000"):
        decode_image(png_header(30_000, 30_000))
    with pytest.raises(ImageTooLargeError, match="32x"):
        decode_image(image_bytes(0, (8, 32)), max_pixels=200)


def test_every_truncation_of_a_jpeg_is_refused() -> None:
    data = textured_image(1)
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_image(data[:length])


def test_bytes_after_the_end_of_a_jpeg_do_no_harm() -> None:
    data = textured_image(1)
    assert torch.equal(decode_image(data + b"\0" * 30), decode_image(data))


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"hello", "no image format"), (b"\xff\xd8\xff\xd9", "no image format")]
)
def test_what_is_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_normalise_is_the_formula() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalise(images, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0), torch.float64)
    torch.testing.assert_close(found.flatten(), torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64))
    assert normalise(images, (0.5,) * 3, (0.5,) * 3, torch.bfloat16).dtype == torch.bfloat16


def former_resize(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """How images were resized before torchvision did it."""
    return F.interpolate(image.unsqueeze(0), size, mode=interpolation, antialias=True).squeeze(0)


def former_normalise(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype
) -> torch.Tensor:
    """How batches were normalised before torchvision did it."""
    wide = torch.promote_types(dtype, torch.float32)
    centre, spread = (torch.tensor(x, dtype=wide).view(3, 1, 1) for x in (mean, std))
    return images.to(wide).div_(255).sub_(centre).div_(spread).to(dtype)


@pytest.fixture(scope="module")
def real_images(market_sample: Path) -> list[bytes]:
    """Real crops as they are, and in other sizes, modes and formats, one of them turned by its EXIF data."""
    files = sorted(market_sample.rglob("*.jpg"))[::100]
    found = [path.read_bytes() for path in files]
    crops = [Image.open(path).convert("RGB") for path in files]
    exif = Image.Exif()
    exif[0x0112] = 8
    for number, size in enumerate([(48, 96), (131, 257), (300, 640)]):
        larger = crops[number].resize(size)
        found += [encoded(larger, form) for form in ("JPEG", "PNG", "WEBP", "BMP")]
        found += [encoded(larger.convert(mode), "JPEG") for mode in ("L", "CMYK")]
        found += [encoded(larger.convert(mode), "PNG") for mode in ("L", "P", "RGBA")]
        found.append(encoded(larger, "JPEG", exif=exif.tobytes()))
    return found


def test_real_images_decode_to_pillows_pixels(real_images: list[bytes]) -> None:
    assert len(real_images) > 40
    for data in real_images:
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        np.testing.assert_array_equal(decode_pixels(data), np.asarray(wanted))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_torchvision_resizes_real_images_to_the_same_bytes_as_before(
    real_images: list[bytes], interpolation: str
) -> None:
    for data in real_images:
        image = decode_image(data)
        for size in ((256, 128), (384, 192), (64, 32), (100, 77)):
            assert torch.equal(resize_image(image, size, interpolation), former_resize(image, size, interpolation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_torchvision_normalises_real_images_to_the_same_bytes_as_before(
    real_images: list[bytes], dtype: torch.dtype
) -> None:
    images = torch.stack([resize_image(decode_image(data), (256, 128)) for data in real_images])
    clip = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for mean, std in (((0.5,) * 3, (0.5,) * 3), clip, imagenet):
        found, wanted = normalise(images, mean, std, dtype), former_normalise(images, mean, std, dtype)
        assert found.dtype == dtype and torch.equal(found, wanted)


def test_reading_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"a\.jpg: no image format"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"b\.jpg: No such file"):
        read_image(tmp_path / "b.jpg")


def test_the_recorded_batch(golden: Path, market_sample: Path) -> None:
    recorded = np.load(golden / "preprocessed.npz")
    paths = [next(market_sample.rglob(name)) for name in recorded["names"].tolist()]
    images = torch.stack([resize_image(read_image(path), (256, 128)) for path in paths])
    found = normalise(images, (0.5,) * 3, (0.5,) * 3, torch.float32)
    np.testing.assert_allclose(found.numpy(), recorded["images"], atol=1e-6)


@pytest.mark.parametrize("form", ["TIFF", "GIF", "AVIF", "PPM"])
def test_the_other_raster_formats_give_pillows_pixels(form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    data = encoded(gradient(), form)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert wanted.std() > 20
    np.testing.assert_array_equal(decode_pixels(data), wanted)
    assert format_of(data) == form and (read_header(data).width, read_header(data).height) == (20, 40)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_a_turned_tiff_is_upright_and_its_header_says_so(compression: str) -> None:
    turned = gradient(20, 40)
    data = encoded(turned, "TIFF", compression=compression, tiffinfo={274: 6})
    pixels, header = decode_pixels(data), read_header(data)
    assert pixels.shape == (20, 40, 3) and (header.width, header.height) == (40, 20)
    wanted = np.asarray(turned.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(pixels.astype(int) - wanted).max() < (30 if compression == "jpeg" else 1)


@pytest.mark.parametrize("form", ["GIF", "TIFF"])
def test_the_first_frame_of_several_is_read(form: str) -> None:
    first, second = Image.new("RGB", (8, 8), (0, 96, 192)), Image.new("RGB", (8, 8), (255, 0, 0))
    data = encoded(first, form, save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode_pixels(data)[3, 3].tolist() == [0, 96, 192]


def test_no_format_outside_the_list_is_opened_and_no_program_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's EPS plugin runs the first `gs` on the path, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for form, name in (("EPS", "EPS"), ("ICO", "ICO"), ("ICNS", "ICNS"), ("JPEG2000", "JPEG 2000"), ("DDS", "DDS")):
        try:
            data = encoded(gradient(32, 32), form)
        except OSError:  # this Pillow cannot write it
            continue
        with pytest.raises(ImageError, match=rf"^no image format that is known here: {name} is not read here$"):
            decode_pixels(data)
        with pytest.raises(OSError, match=name):
            read_header(data)
    for form in ("TGA", "PCX", "SGI", "PDF"):
        with pytest.raises(ImageError, match="no image format that is known here"):
            decode_pixels(encoded(gradient(32, 32), form))
    assert not (tmp_path / "ran").exists()


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        decode_pixels(encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))


def test_texts_that_begin_like_images_are_none() -> None:
    for text in (b"BMW 320 and other cars", b"P4: a note", b"GIF is a format", b"", b"P"):
        assert format_of(text) is None and not is_surely_image(text)
    assert format_of(encoded(gradient(), "PPM")) == "PPM" and not is_surely_image(b"P5 is a section")
    assert is_surely_image(encoded(gradient(), "BMP"))
