"""`promptsg visualize` and `compare` on real files: the batch job's maps to the bit, and every odd image."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cam import extract_maps
from jobs.cli import main
from jobs.mining.config import build_config
from jobs.mining.mine import mine
from jobs.rendering.single.files import find_images, stems_for
from jobs.runs.run import open_run
from promptsg_core import load_model
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.shard_files import image_bytes, market_shard, textured_image
from tests.support.tiny import tiny_checkpoint
from tests.support.tiny_transreid import Sizes
from tests.support.tiny_transreid import tiny_checkpoint as transreid_checkpoint

GRIDS = {
    "stride12": {"image_size": (64, 32), "patch_size": 4, "stride": 3},
    "tall": {"image_size": (96, 32), "patch_size": 4, "stride": 4},
    "18x9": {"image_size": (72, 36), "patch_size": 4, "stride": 4},
}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(textured_image(number))
    return folder


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_batch_jobs_maps_to_the_bit(checkpoint: Path, tmp_path: Path, batch_size: int, precision: str) -> None:
    keys = market_shard(tmp_path / "query-0.tar", 6)
    files = []
    for number, key in enumerate(keys):
        files.append(tmp_path / f"{key}.jpg")
        files[-1].write_bytes(textured_image(number))
    maps = ["mim_attention", "gradcam/mim", "gradcam++/vit_last", "hirescam/classifier", "rollout", "chefer", "legrad"]
    same = {"batch_size": batch_size, "precision": precision, "device": "cpu"}
    config = {"maps": maps, "workers": 0, "checkpoint": checkpoint, "output": tmp_path / "RUN", **same}
    config |= {"shards": str(tmp_path / "query-0.tar"), "attention_heads": "all"}
    assert mine(build_config(None, config)).exit_status == 0
    result = invoke(
        "visualize", *files, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--layer", "all",
        "--batch-size", batch_size, "--precision", precision, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    run = open_run(tmp_path / "RUN")
    heads = run.read_maps("mim_attention_heads", "query-0")
    assert heads.shape == (6, 8, 16, 8)
    for name in maps:
        stored = run.read_maps(name, "query-0")
        for row, key in enumerate(keys):
            with np.load(tmp_path / "out" / f"{key}.npz") as alone:
                np.testing.assert_array_equal(alone[name], stored[row], err_msg=name)
                np.testing.assert_array_equal(alone["mim_attention_heads"], heads[row])
    np.testing.assert_allclose(heads.mean(1), run.read_maps("mim_attention", "query-0"), rtol=1e-5)


@pytest.mark.parametrize("grid", list(GRIDS))
def test_other_grids_work_throughout(people: Path, tmp_path: Path, grid: str) -> None:
    config = tiny_checkpoint(tmp_path / "m.pth", **GRIDS[grid])
    size = ["--model-set", "INPUT.SIZE_TEST", str(list(config.image_size)), "--model-set", "MODEL.STRIDE_SIZE",
            str(config.stride)]  # fmt: skip
    result = invoke("visualize", people, "--checkpoint", tmp_path / "m.pth", "--layer", "all", "--output",
                    tmp_path / "out", "--scale", "shared", *size)  # fmt: skip
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "out" / "1.npz") as arrays:
        assert arrays["gradcam++/mim"].shape == config.grid and arrays["chefer"].shape == config.grid
        assert arrays["mim_attention"].sum() == pytest.approx(1, abs=1e-3)
    heat = Image.open(tmp_path / "out" / "1__mim_attention__overlay.png")
    assert heat.size == (16, 32)  # as the file, not as the grid
    assert invoke("compare", "--query", people / "0.jpg", "--gallery", people / "1.jpg", "--checkpoint",
                  tmp_path / "m.pth", "--output", tmp_path / "pair", *size).exit_code == 0  # fmt: skip


def test_legrad_of_transreid_and_its_heads(people: Path, tmp_path: Path) -> None:
    checkpoint, size = tmp_path / "transreid.pth", (64, 32)
    transreid_checkpoint(checkpoint, Sizes(image_size=size))
    stated = ["--model-set", "INPUT.SIZE_TEST", "[64, 32]", "--precision", "fp32", "--device", "cpu"]
    for head in ("global", "all"):
        out = tmp_path / head
        result = invoke("visualize", people, "--checkpoint", checkpoint, "--output", out, "--method", "legrad",
                        "--camera", "mean", "--head", head, *stated)  # fmt: skip
        assert result.exit_code == 0 and "3 images, 1 map each" in result.output, result.output
        _says_cameras(result)
        model = load_model(checkpoint, device="cpu", precision="fp32", image_size=size)
        pixels = [resize_image(decode_image((people / f"{n}.jpg").read_bytes()), size) for n in range(3)]
        wanted = extract_maps(model, torch.stack(pixels), ["legrad"], head=head, cameras="mean").maps["legrad"]
        for row in range(3):
            assert (out / f"{row}__legrad__overlay.png").exists()
            with np.load(out / f"{row}.npz") as arrays:
                np.testing.assert_allclose(arrays["legrad"], wanted[row].numpy(), rtol=1e-4)
    pair = ["--query", people / "0.jpg", "--gallery", people / "1.jpg", "--output", tmp_path / "pair"]
    _says_cameras(invoke("compare", *pair, "--checkpoint", checkpoint, "--camera", "mean", *stated))


def _says_cameras(result: Result) -> None:
    """That the rows of the camera embedding are on standard error, and that their mean is an approximation."""
    assert result.exit_code == 0
    assert re.search(r"camera embedding: \d+ rows, coefficient", result.stderr), result.stderr
    assert "the mean of all rows, an approximation" in result.stderr


def odd_images() -> dict[str, bytes]:
    """Images that are drawn, and files that are not."""
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.open(io.BytesIO(textured_image(3, (16, 32)))).save(rotated, "JPEG", exif=exif)
    deep = io.BytesIO()
    Image.fromarray((np.arange(32 * 16).reshape(32, 16) * 100).astype(np.uint16)).save(deep, "PNG")
    return {
        "pixel.png": image_bytes(3, (1, 1), "PNG"),
        "cmyk.jpg": image_bytes(3, mode="CMYK"),
        "deep.png": deep.getvalue(),
        "rotated.jpg": rotated.getvalue(),
        "empty.jpg": b"",
        "text.jpg": b"not an image at all",
    }


def test_odd_images_are_drawn_or_named(checkpoint: Path, tmp_path: Path) -> None:
    for name, data in odd_images().items():
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in odd_images()]
    result = invoke("visualize", *files, tmp_path / "gone.jpg", "--checkpoint", checkpoint, "--output", tmp_path / "o",
                    "--method", "mim_attention")  # fmt: skip
    assert result.exit_code == 1 and "4 images" in result.output
    for name in ("empty.jpg", "text.jpg", "gone.jpg"):
        lines = [line for line in result.output.splitlines() if name in line]
        assert len(lines) == 1 and lines[0].startswith("not drawn:")
    for name in ("pixel", "cmyk", "deep", "rotated"):
        assert (tmp_path / "o" / f"{name}__panel.png").exists()
    assert Image.open(tmp_path / "o" / "rotated__mim_attention__overlay.png").size == (16, 32)  # upright
    grey = np.asarray(Image.open(tmp_path / "o" / "deep__panel.png"))
    assert grey.shape[2] == 3


def test_images_of_odd_proportions_are_drawn_in_bounded_size(checkpoint: Path, tmp_path: Path) -> None:
    """20000x1 pixels at the height of panels would be five million pixels wide, and end in a killed process."""
    for name, size in (("wide", (20_000, 1)), ("tall", (1, 20_000))):
        Image.new("RGB", size, "grey").save(tmp_path / f"{name}.png")
    files = [tmp_path / "wide.png", tmp_path / "tall.png"]
    result = invoke("visualize", *files, "--checkpoint", checkpoint, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in ("wide", "tall"):
        panel = Image.open(tmp_path / "out" / f"{name}__panel.png")
        assert panel.width <= 2 * 4096 + 100 and panel.height <= 1000
    assert Image.open(tmp_path / "out" / "wide__mim_attention__overlay.png").size == (20_000, 1)
    pair = invoke("compare", "--query", files[0], "--gallery", files[1], "--checkpoint", checkpoint, "--output",
                  tmp_path / "pair")  # fmt: skip
    assert pair.exit_code == 0 and Image.open(tmp_path / "pair" / "comparison.png").width <= 2 * 4096 + 100


def test_compare_gives_the_cosine_and_both_ways(checkpoint: Path, people: Path, tmp_path: Path) -> None:
    result = invoke("compare", "--query", people / "0.jpg", "--gallery", people / "1.jpg", "--checkpoint", checkpoint,
                    "--output", tmp_path / "pair", "--precision", "fp32", "--json")  # fmt: skip
    similarity = json.loads(result.output)["similarity"]
    with np.load(tmp_path / "pair" / "query__0.npz") as a, np.load(tmp_path / "pair" / "gallery__1.npz") as b:
        unit = [side["feature"] / np.linalg.norm(side["feature"]) for side in (a, b)]
        assert similarity == pytest.approx(float(unit[0] @ unit[1]), abs=1e-5)
        assert float(b["score"]) == pytest.approx(similarity, abs=1e-5) and not np.allclose(
            a["hirescam/mim"], b["hirescam/mim"]
        )
    refused = invoke("compare", "--query", people / "0.jpg", "--gallery", people / "1.jpg", "--checkpoint", checkpoint,
                     "--layer", "classifier", "--output", tmp_path / "no")  # fmt: skip
    assert refused.exit_code == 1 and "does not pass through layer classifier" in refused.output
    assert not (tmp_path / "no").exists()


def test_files_folders_and_globs(people: Path) -> None:
    assert len(find_images([str(people)])) == 3
    assert len(find_images([str(people / "*.jpg"), str(people / "1.jpg")])) == 3
    assert find_images([str(people / "gone.jpg")]) == [people / "gone.jpg"]
    stems = stems_for([Path("/a/x.jpg"), Path("/b/x.jpg"), Path("/b/x.png"), Path("/b/y.png")])
    assert list(stems.values()) == ["x", "b__x", "b__x__2", "y"]
