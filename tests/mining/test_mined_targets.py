"""`promptsg mine` with each target, and with prompts, over real tars: what is stored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.cli import main
from jobs.errors import UserError
from jobs.mining.config import build_config
from jobs.mining.mine import mine
from jobs.runs.run import open_run
from tests.support.shard_files import market_shard, textured_image
from tests.support.tiny import tiny_checkpoint


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


def rows_of(run: Path) -> list[dict]:
    return [row for path in sorted((run / "metadata").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_label_and_predicted_agree_where_the_prediction_is_right(checkpoint: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train-0", "query-0")):
        market_shard(tmp_path / f"{split}.tar", 35, first=0 if number == 0 else 200)
    options = {"maps": ["mim_attention", "gradcam/mim"], "workers": 0, "checkpoint": checkpoint, "precision": "fp32",
               "device": "cpu", "shards": str(tmp_path / "*.tar"), "batch_size": 8}  # fmt: skip
    assert mine(build_config(None, {**options, "output": tmp_path / "L", "target": "label"})).exit_status == 0
    assert mine(build_config(None, {**options, "output": tmp_path / "P"})).exit_status == 0
    labelled, predicted = open_run(tmp_path / "L"), open_run(tmp_path / "P")
    a, b = (run.read_maps("gradcam/mim", "train-0") for run in (labelled, predicted))
    right = np.array(
        [row["predicted"] == row["pid"] - 1 for row in rows_of(tmp_path / "L") if row["shard"] == "train-0"]
    )
    assert 0 < right.sum() < len(right)  # pids 1 to 7 are classes 0 to 6
    np.testing.assert_array_equal(a[right], b[right])
    assert not any(np.array_equal(x, y) and x.any() for x, y in zip(a[~right], b[~right], strict=True))
    query = [row for row in rows_of(tmp_path / "L") if row["shard"] == "query-0"]
    assert {row["status"] for row in query} == {"no_label"} and all(row["h5_row"] is not None for row in query)
    assert all(row["gradcam_mim_mass"] is None and row["mim_attention_mass"] is not None for row in query)
    assert np.isnan(labelled.read_maps("gradcam/mim", "query-0")).all()


def test_counts_that_disagree_are_both_named(checkpoint: Path, tmp_path: Path) -> None:
    market_shard(tmp_path / "train-0.tar", 10)
    common = ["mine", "--shards", tmp_path / "train-0.tar", "--checkpoint", checkpoint, "--output", tmp_path / "R"]
    result = invoke(*common, "--target", "label")
    assert result.exit_code == 1 and "have 2 pids, but the checkpoint has 7 classes" in result.output
    (tmp_path / "map.json").write_text('{"1": 3, "2": 9}')
    result = invoke(*common, "--target", "label", "--label-map", tmp_path / "map.json")
    assert "class 9" in result.output and "7 classes" in result.output
    assert not (tmp_path / "R").exists()
    (tmp_path / "map.json").write_text('{"1": 3, "2": 5}')
    assert invoke(*common, "--target", "label", "--label-map", tmp_path / "map.json").exit_code == 0


def test_similarity_is_to_the_mean_of_the_persons_other_images(checkpoint: Path, tmp_path: Path) -> None:
    from cam import extract_maps
    from cam.targets import similarity_target
    from promptsg_core import load_model
    from promptsg_core.preprocess import decode_image, resize_image

    keys = market_shard(tmp_path / "gallery-0.tar", 11)  # persons 1, 2 and, alone, 3
    common = {"workers": 0, "checkpoint": checkpoint, "precision": "fp32", "device": "cpu", "batch_size": 4}
    first = {**common, "shards": str(tmp_path / "gallery-0.tar"), "output": tmp_path / "F", "maps": ["mim_attention"]}
    assert mine(build_config(None, first)).exit_status == 0
    second = {**first, "output": tmp_path / "S", "maps": ["mim_attention", "hirescam/mim"], "target": "similarity"}
    compared = {**second, "reference": tmp_path / "F", "reference_split": "gallery"}
    assert mine(build_config(None, compared)).exit_status == 0
    features = open_run(tmp_path / "F").read_features("gallery-0").astype(float)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    model = load_model(checkpoint, device="cpu", precision="fp32")
    images = torch.stack([resize_image(decode_image(textured_image(n)), (64, 32)) for n in range(11)])
    stored = open_run(tmp_path / "S").read_maps("hirescam/mim", "gallery-0")
    rows = rows_of(tmp_path / "S")
    for number in range(10):
        others = [n for n in range(11) if n // 5 == number // 5 and n != number]
        mean = torch.tensor(unit[others].mean(0)).float()[None]
        wanted = extract_maps(model, images[number : number + 1], ["hirescam/mim"], similarity_target(mean))
        exact = wanted.maps["hirescam/mim"][0].numpy()
        np.testing.assert_allclose(stored[number], exact, atol=2e-4 * exact.max())
        assert rows[number]["score"] == pytest.approx(wanted.score.item(), abs=1e-5)
        assert rows[number]["status"] == "ok" and rows[number]["key"] == keys[number]
    assert rows[10]["status"] == "no_reference" and rows[10]["h5_row"] == 10 and rows[10]["score"] is None
    assert np.isnan(stored[10]).all() and rows[10]["predicted"] is not None
    missing = invoke("mine", "--shards", tmp_path / "gallery-0.tar", "--checkpoint", checkpoint, "--output",
                     tmp_path / "X", "--target", "similarity")  # fmt: skip
    assert missing.exit_code == 1 and "--reference RUN" in missing.output
    tiny_checkpoint(tmp_path / "other.pth", seed=1, image_size=(64, 32))
    for changed, word in (
        ({"checkpoint": tmp_path / "other.pth"}, "checkpoint"),
        ({"neck_feat": "after"}, "neck_feat"),
    ):
        with pytest.raises(UserError, match=f"features of another model: {word}"):
            mine(build_config(None, {**second, "reference": tmp_path / "F", "output": tmp_path / "O", **changed}))
    assert not (tmp_path / "O").exists()


def test_prompts_are_maps_of_the_run(checkpoint: Path, tmp_path: Path) -> None:
    market_shard(tmp_path / "query-0.tar", 5)
    result = invoke("mine", "--shards", tmp_path / "query-0.tar", "--checkpoint", checkpoint, "--output",
                    tmp_path / "R", "--prompt", "plain=A photo of a person", "--maps", "mim_attention",
                    "--workers", 0)  # fmt: skip
    assert result.exit_code == 0, result.output
    run = open_run(tmp_path / "R")
    assert run.maps == ("mim_attention", "mim_attention:plain")
    assert run.read_maps("mim_attention:plain", "query-0").sum(axis=(1, 2)) == pytest.approx(np.ones(5), abs=1e-4)
    assert "mim_attention_plain_entropy" in run.schema.names
