"""Models with camera embeddings and several heads in a run: which row each image gets, and what must be stated."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cam import extract_maps
from jobs.datasets.layouts import LAYOUTS
from jobs.datasets.shard_plan import PLAN
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.camera_rows import mapped
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.camera_rows.source import OwnCameras, SameCamera, camera_source
from jobs.mining.camera_rows.trained_on import CAMERAS, check_trained_on
from jobs.mining.config import MineConfig, build_config
from jobs.mining.mine import mine
from jobs.mining.model import load
from jobs.runs.run import open_run
from jobs.shards.samples import Sample, read_samples
from jobs.shards.tar import Member
from jobs.shards.urls import expand_shards
from promptsg_core import ModelError, load_model
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.shard_files import market_shard, textured_image, write_tar
from tests.support.tiny_clipreid import tiny_clipreid

DEFAULTS = ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
SIZE = {"image_size": (64, 32)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six cameras, and images of cameras c1, c3 and c8 of Market's names: 0, 2 and 7 from 0."""
    folder = tmp_path_factory.mktemp("cameras")
    torch.save(tiny_clipreid(cameras=6), folder / "m.pth")
    members = [(f"000{n}_c{camera}s1_00000{n}_00.jpg", textured_image(n)) for n, camera in enumerate((1, 3, 8))]
    write_tar(folder / "train-0.tar", members)
    entry = {"file": "train-0.tar", "images": 3}
    (folder / PLAN).write_text(json.dumps({"dataset": "market1501", "shards": [entry]}))
    return folder


def config(inputs: Path, output: Path, **options: object) -> MineConfig:
    values = {"shards": str(inputs / "*.tar"), "checkpoint": inputs / "m.pth", "output": output, "device": "cpu",
              "precision": "fp32", "workers": 0, "max_failed_fraction": 0.5, **SIZE, **options}  # fmt: skip
    return build_config(None, values)


def test_each_image_has_the_row_of_its_camera(inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = config(inputs, tmp_path / "RUN", trained_on="market1501", sie_coe=2.0, head="both")
    assert mine(asked).exit_status == 0
    run = open_run(tmp_path / "RUN")
    assert run.maps == DEFAULTS and run.manifest.asked.head == "both"
    assert (run.manifest.resolved.model["family"], run.manifest.resolved.model["sie_coe"]) == ("clipreid", 2.0)
    rows = pq.read_table(run.layout.shard_metadata("train-0")).to_pylist()
    assert [(row["camid"], row["status"], row["h5_row"]) for row in rows] == [
        (0, "ok", 0), (2, "ok", 1), (7, "no_camera", None)
    ]  # fmt: skip
    assert rows[2]["error"] == "its camera 7 has row 7, but the camera embedding has 6 rows, from 0"
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32", sie_coe=2.0, **SIZE)
    images = torch.stack([resize_image(decode_image(textured_image(n)), (64, 32)) for n in range(2)])
    wanted = extract_maps(model, images, DEFAULTS, head="both", cameras=torch.tensor([0, 2]))
    for name in DEFAULTS:
        np.testing.assert_allclose(run.read_maps(name, "train-0"), wanted.maps[name].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.read_features("train-0"), wanted.features.numpy(), rtol=1e-4, atol=1e-5)
    with caplog.at_level(logging.INFO):
        assert mine(asked).nothing_to_do
    assert f"maps as in the run: {', '.join(DEFAULTS)}" in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert mine(asked.model_copy(update={"maps": DEFAULTS})).nothing_to_do
    assert not any("as in the run" in message for message in caplog.messages)
    assert mine(asked).nothing_to_do  # the maps of the family are those of the run
    with pytest.raises(UserError, match=r"sie_coe was 2\.0 and is now 1\.0"):
        mine(asked.model_copy(update={"sie_coe": 1.0}))


def test_a_camera_map_is_kept_in_the_run(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"0": 5, "2": 4, "7": 0}')
    assert mine(config(inputs, tmp_path / "RUN", camera_map=tmp_path / "map.json")).exit_status == 0
    run = open_run(tmp_path / "RUN")
    assert run.manifest.resolved.camera_map == {0: 5, 2: 4, 7: 0}
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32", **SIZE)
    images = torch.stack([resize_image(decode_image(textured_image(n)), (64, 32)) for n in range(3)])
    features = model(images, torch.tensor([5, 4, 0]))
    np.testing.assert_allclose(run.read_features("train-0"), features.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a camera embedding of 6 rows.*give --trained-on NAME.*--camera-map FILE.*--camera N, mean or none"),
        ({"trained_on": "dukemtmc"}, "trained on dukemtmc, but the shards in .* are of market1501"),
        ({"trained_on": "market"}, r"market, and the shards in .* are of market1501; did you mean market1501\?$"),
        ({"camera": "6"}, "--camera is '6': for this model give a row from 0 to 5, or mean or none"),
        ({"camera": "all"}, "--camera is 'all'"),
    ],
)
def test_what_must_be_stated_is_asked_for_before_any_work(
    inputs: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mine(config(inputs, tmp_path / "RUN", **options))
    assert not (tmp_path / "RUN").exists()


def test_a_camera_map_with_a_row_that_the_embedding_lacks_is_refused_before_any_work(
    inputs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"0": 2, "7": 6}')
    with pytest.raises(UserError, match=r"gives camera 7 the row 6, but the camera embedding has 6 rows, from 0$"):
        mine(config(inputs, tmp_path / "RUN", camera_map=path))
    assert not (tmp_path / "RUN").exists()


def test_cameras_that_a_map_leaves_out_are_named_before_any_work(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32", **SIZE)
    shards = expand_shards((str(inputs / "*.tar"),))
    for content, said in (('{"2": 4}', ["0, 7"]), ('{"0": 5, "2": 4, "7": 0}', [])):
        caplog.clear()
        (tmp_path / "map.json").write_text(content)
        camera_source(model, CameraOptions(camera_map=tmp_path / "map.json"), shards)
        warned = [message for message in caplog.messages if "leaves out" in message]
        assert len(warned) == len(said)
        assert all(f"map.json leaves out the cameras {one} of shard train-0" in warned[0] for one in said)


def test_the_beginning_of_a_shard_is_looked_at_by_the_first_of_many_processes(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shard may be large, and each rank of each element of an array would read the same one."""
    market_shard(tmp_path / "query-0.tar", 40)
    (tmp_path / "map.json").write_text('{"9": 0}')
    read = []

    def counting(tar: Iterable[Member], name: str) -> Iterator[tuple[Sample, bytes | None]]:
        for sample, content in read_samples(tar, name):
            read.append(sample.key)
            yield sample, content

    monkeypatch.setattr(mapped, "read_samples", counting)
    monkeypatch.setattr(mapped, "_LOOKED_AT", 7)
    values = config(inputs, tmp_path / "RUN", camera_map=tmp_path / "map.json", maps=("cls_attention",))
    shards = expand_shards((str(tmp_path / "query-0.tar"),))
    for rank, element in ((1, 0), (0, 3)):
        load(values, (), shards, Environment(rank=rank, world_size=2, array_index=element, array_count=4))
    assert read == [] and "leaves out" not in caplog.text
    load(values, (), shards, Environment(rank=0, world_size=2, array_index=0, array_count=4))
    assert len(read) == 7 and "leaves out the cameras" in caplog.text


def test_the_name_of_a_data_set_may_be_spelled_in_other_ways(inputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = expand_shards((str(inputs / "*.tar"),))
    check_trained_on("Market-1501", 6, here, "--camera mean")
    assert not caplog.messages
    with pytest.raises(UserError, match=r"--trained-on is market1501, which has 6 cameras, but .* has 8 rows"):
        check_trained_on("Market 1501", 8, (), "--camera mean")
    check_trained_on("duke", 8, (), "--camera mean")
    assert "cameras are not known; did you mean dukemtmc?; known are market1501, dukemtmc" in caplog.messages[0]


def test_a_head_that_it_has_not(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the head 'global' is none of this model's: proj, cls, both"):
        mine(config(inputs, tmp_path / "RUN", camera="mean", head="global"))


def test_where_cameras_come_from(inputs: Path) -> None:
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32", **SIZE)
    assert camera_source(model, CameraOptions(camera="mean")) == SameCamera("mean")
    assert camera_source(model, CameraOptions(camera="3")) == SameCamera(3)
    source = camera_source(model, CameraOptions(trained_on="market1501"))
    assert source == OwnCameras(6)
    found = source.of([1, None, -1, 5])
    assert isinstance(found.cameras, torch.Tensor) and found.cameras.tolist() == [1, 0, 0, 5]
    assert [error is None for error in found.errors] == [True, False, False, True]
    assert "is not known" in str(found.errors[1])
    without = load_model(inputs / "m.pth", device="cpu", precision="fp32", sie_camera=False, **SIZE)
    with pytest.raises(UserError, match="--camera was given, but the checkpoint has no camera embedding"):
        camera_source(without, CameraOptions(camera="0"))


def test_a_reference_run_with_other_cameras_is_refused_by_their_names(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"0": 5, "2": 4, "7": 0}')
    mapped: dict[str, object] = {"camera_map": tmp_path / "map.json"}
    assert mine(config(inputs, tmp_path / "REF", maps=("cls_attention",), **mapped)).exit_status == 0
    wanted: dict[str, object] = {"target": "similarity", "reference": tmp_path / "REF", "maps": ("hirescam/vit_norm",)}
    there = "features of another model: cameras by --camera-map with 0: 5, 2: 4, 7: 0 there, by"
    for asked, here in (
        ({"camera": "mean"}, "--camera mean"),
        ({"trained_on": "market1501"}, "--trained-on market1501"),
    ):
        with pytest.raises(UserError, match=f"{there} {here} here$"):
            mine(config(inputs, tmp_path / "RUN", **asked, **wanted))
    (tmp_path / "other.json").write_text('{"0": 5, "2": 4, "7": 1}')
    with pytest.raises(UserError, match=f"{there} --camera-map with 0: 5, 2: 4, 7: 1 here$"):
        mine(config(inputs, tmp_path / "RUN", camera_map=tmp_path / "other.json", **wanted))
    assert not (tmp_path / "RUN").exists()
    assert mine(config(inputs, tmp_path / "RUN", trained_on="market1501", **mapped, **wanted)).exit_status == 0


def test_a_known_data_set_has_as_many_cameras_as_the_embedding_rows(inputs: Path, tmp_path: Path) -> None:
    torch.save(tiny_clipreid(cameras=8), tmp_path / "duke.pth")
    message = "^--trained-on is market1501, which has 6 cameras, but the camera embedding of the checkpoint has 8 rows:"
    with pytest.raises(UserError, match=message):
        mine(config(inputs, tmp_path / "RUN", checkpoint=tmp_path / "duke.pth", trained_on="market1501"))
    assert not (tmp_path / "RUN").exists()
    assert CAMERAS.keys() <= LAYOUTS.keys()
    for name, rows in (("market1501", 6), ("dukemtmc", 8), ("occluded-duke", 8), ("msmt17", 15), ("ours", 3)):
        check_trained_on(name, rows, (), "--camera mean")


def test_a_folder_that_does_not_say_its_data_set_is_named(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(tmp_path / "query-0.tar", [("0001_c1s1_000001_00.jpg", textured_image(1))])
    here = expand_shards((str(inputs / "*.tar"),))
    check_trained_on("market1501", 6, here, "--camera mean")
    assert not caplog.messages
    check_trained_on("market1501", 6, [*here, *expand_shards((str(tmp_path / "*.tar"),))], "--camera mean")
    assert caplog.messages == [
        f"the shards in {tmp_path} do not say which data set they are of: their cameras are taken as those of "
        "market1501"
    ]
