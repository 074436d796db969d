"""`promptsg info`: what it says of a checkpoint, and what it says is assumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from jobs.cli import main
from jobs.commands.info import command
from promptsg_core import inspect_checkpoint
from tests.support import tiny_transreid
from tests.support.knowing_model import knowing_checkpoint, person_shard
from tests.support.shard_files import textured_image, write_tar
from tests.support.tiny import tiny_checkpoint, tiny_state
from tests.support.tiny_clipreid import of_stage_1, tiny_clipreid
from tests.support.tiny_irra import tiny_irra

FACTS = """\
checkpoint      {path}
family          H
parameters      {parameters}
classes         7
image size      64x32 (height x width)
patch, stride   4, 4
grid            16x8 = 128 patches
image tower     width 64, 3 blocks, 1 heads
text tower      width 32, 2 blocks, 8 heads
MIM             width 32, 2 blocks, 8 heads, mul_mean1
prompt          {prompt}
default maps    mim_attention, gradcam/mim, gradcam++/mim
feature         96 numbers, {neck} the necks
mean, std       [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
assumed         {assumed}: the tensors do not say; state what differs with KEY VALUE
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


def said(*words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_checkpoint_is_described(checkpoint: Path) -> None:
    common = {"path": checkpoint, "parameters": "1,805,152 (float32)"}
    assert said(checkpoint) == FACTS.format(
        **common,
        prompt='composed: "A photo of a X person"',
        neck="before",
        assumed="MIM heads, reweight, prompt, neck, mean, std",
    )
    words = ["MODEL.PROMPTSG.PROMPT_MODE", "simplified", "TEST.NECK_FEAT", "after"]
    assert said(checkpoint, *words) == FACTS.format(
        **common, prompt='simplified: "A photo of a person"', neck="after", assumed="MIM heads, reweight, mean, std"
    )


def test_the_settings_of_a_file_are_not_assumed(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(
        "MODEL: {PROMPTSG: {PROMPT_MODE: composed, CROSS_ATTN_HEADS: 8, REWEIGHT: mul_mean1}}\n"
        "INPUT: {PIXEL_MEAN: [0.5, 0.5, 0.5], PIXEL_STD: [0.5, 0.5, 0.5]}\nTEST: {NECK_FEAT: before}\n"
    )
    assert "assumed" not in said(checkpoint, "--model-settings", tmp_path / "m.yml")


def test_json_has_the_whole_configuration(checkpoint: Path) -> None:
    content = json.loads(said(checkpoint, "--json"))
    assert content["family"] == "H" and content["parameters"] == 1_805_152
    assert content["config"]["grid"] == [16, 8] and content["config"]["inversion_widths"] == [40, 24]
    assert content["config"]["prompt_mode"] == "composed"


def test_it_says_which_state_dict_was_taken_and_how_to_take_the_other(tmp_path: Path) -> None:
    state = tiny_state(image_size=(64, 32))[1]
    plain, both = tmp_path / "plain.pth", tmp_path / "both.pth"
    torch.save({"net": state, "epoch": 3}, plain)
    torch.save({"state_dict": state, "state_dict_ema": state}, both)
    assert said(plain).splitlines()[1] == "weights         net"
    line = "weights         state_dict; for the others in it give --weights-key state_dict_ema"
    assert said(both).splitlines()[1] == line
    assert said(both, "--weights-key", "state_dict_ema").splitlines()[1] == "weights         state_dict_ema"
    content = json.loads(said(both, "--json"))
    assert (content["weights_key"], content["other_weights"]) == ("state_dict", ["state_dict_ema"])


def test_the_image_size_answers_where_two_grids_fit(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(96, 32))
    refused = CliRunner().invoke(command, [str(tmp_path / "m.pth")])
    assert "24x8 (images of 96x32) or 16x12 (images of 64x48)" in str(refused.exception)
    assert "grid            24x8 = 192 patches" in said(tmp_path / "m.pth", "--image-size", "96x32")
    assert "grid            16x12 = 192 patches" in said(tmp_path / "m.pth", "--image-size", "64x48")
    wrong = CliRunner().invoke(command, [str(tmp_path / "m.pth"), "--image-size", "96"])
    assert str(wrong.exception) == "image size '96': give height and width in pixels, such as 384x128"


def test_a_sample_of_shards_shows_another_numbering(tmp_path: Path) -> None:
    """The figures of the text are those of --json; nothing is written."""
    pids = [3, 5, 8, 9, 12, 13]
    person_shard(tmp_path / "train-0.tar", pids, 4)
    person_shard(tmp_path / "query-0.tar", [101, 102, 103], 3)
    knowing_checkpoint(tmp_path / "m.pth", {pid: (number + 1) % 6 for number, pid in enumerate(pids)})
    (tmp_path / "map.json").write_text(json.dumps({pid: (number + 1) % 6 for number, pid in enumerate(pids)}))
    words = [tmp_path / "m.pth", "--shards", tmp_path / "*.tar", "--device", "cpu", "--precision", "fp32"]
    before = sorted(tmp_path.iterdir())
    text, content = said(*words), json.loads(said(*words, "--json"))["sample"]
    assert sorted(tmp_path.iterdir()) == before
    training, others = content["retrieval"]
    assert (training["images"], training["persons"], training["queries"]) == (24, 6, 24)
    assert (others["images"], others["persons"], others["queries"]) == (9, 3, 9)
    assert training["rank1"] == others["rank1"] == 1.0 and training["mAP"] == others["mAP"] == 1.0
    assert training["chance"] == pytest.approx(3 / 23) and others["chance"] == pytest.approx(2 / 8)
    assert "retrieval       rank-1 100.0%, mAP 100.0% (chance: rank-1 13.0%) on 24 training images of 6 persons" in text
    assert "retrieval       rank-1 100.0%, mAP 100.0% (chance: rank-1 25.0%) on 9 other images of 3 persons" in text
    assert content["labels"]["agreement"] < 0.1 and content["other_numbering"] is True
    assert f"the prediction is the label in {content['labels']['agreement']:.1%} (chance: 16.7%)" in text
    assert "another numbering" in text
    right = json.loads(said(*words, "--label-map", tmp_path / "map.json", "--json"))["sample"]
    assert right["labels"]["agreement"] > 0.9 and right["other_numbering"] is False
    some = said(*words[:2], tmp_path / "query-0.tar", *words[3:])
    assert "labels          not compared: no image of the split train in these shards" in some
    person_shard(tmp_path / "train-0.tar", pids[:5], 4)
    assert "not compared: 5 training persons in these shards, but 6 classes" in said(*words)


def test_a_wrong_assumption_shows_in_the_figures(tmp_path: Path) -> None:
    """The wrong mean and std of the pixels: the features still tell persons apart, but the predictions are wrong."""
    pids = list(range(1, 13))
    person_shard(tmp_path / "train-0.tar", pids, 4)
    knowing_checkpoint(tmp_path / "m.pth", {pid: pid - 1 for pid in pids})
    words = [tmp_path / "m.pth", "--shards", tmp_path, "--device", "cpu", "--precision", "fp32", "--json"]
    right = json.loads(said(*words))["sample"]["labels"]["agreement"]
    wrong = json.loads(said(*words, "INPUT.PIXEL_MEAN", "[0.1,0.1,0.1]", "INPUT.PIXEL_STD", "[0.2,0.2,0.2]"))
    assert right > 0.9 and wrong["sample"]["labels"]["agreement"] < 0.6


def test_a_model_with_cameras_is_checked_with_what_is_said_of_them(tmp_path: Path) -> None:
    torch.save(tiny_clipreid(cameras=6), tmp_path / "m.pth")
    members = [
        (f"{pid:04d}_c{camera}s1_{camera:06d}_00.jpg", textured_image(pid)) for pid in (1, 2, 3) for camera in (1, 3, 8)
    ]
    write_tar(tmp_path / "query-0.tar", members)
    words = [tmp_path / "m.pth", "--shards", tmp_path / "*.tar", "--device", "cpu", "--precision", "fp32",
             "--image-size", "64x32"]  # fmt: skip
    refused = CliRunner().invoke(command, [str(word) for word in words])
    assert "has a camera embedding of 6 rows" in str(refused.exception) and "--trained-on NAME" in str(
        refused.exception
    )
    known = json.loads(said(*words, "--trained-on", "market1501", "--json"))["sample"]
    assert known["undecoded"] == 3  # camera c8 is row 7 of 6
    mapped = json.loads(said(*words, "--camera", "2", "--json"))["sample"]
    assert mapped["undecoded"] == 0 and mapped["retrieval"][0]["images"] == 9
    told = CliRunner().invoke(main, ["info", *map(str, words), "--camera", "mean"], catch_exceptions=False).stderr
    assert "camera embedding: 6 rows, coefficient 1.0" in told
    assert "every image gets the mean of all rows, an approximation: no image was trained with it" in told


def assumed_in(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("assumed")]
    return line.removeprefix("assumed").partition(":")[0].strip().split(", ")


def test_a_grid_that_is_the_usual_one_of_several_is_assumed(tmp_path: Path) -> None:
    torch.save(tiny_irra(), tmp_path / "irra.pth")
    torch.save(tiny_irra(patches=128), tmp_path / "other.pth")
    assert assumed_in(said(tmp_path / "irra.pth")) == ["image size", "mean", "std"]
    for stated in (["--image-size", "96x32"], ["INPUT.SIZE_TEST", "[96, 32]"]):
        assert assumed_in(said(tmp_path / "irra.pth", *stated)) == ["mean", "std"]
    assert assumed_in(said(tmp_path / "other.pth")) == ["mean", "std"]
    square = tiny_transreid.Sizes(image_size=(256, 256), cameras=0, jpm=False)
    tiny_transreid.tiny_checkpoint(tmp_path / "vehicles.pth", square)
    found = said(tmp_path / "vehicles.pth")
    assert "grid            16x16 = 256 patches" in found
    assert assumed_in(found) == ["identity loss", "neck", "mean", "std", "image size"]
    circle = assumed_in(said(tmp_path / "vehicles.pth", "MODEL.ID_LOSS_TYPE", "circle"))
    assert circle == ["scale of cosines", "neck", "mean", "std", "image size"]
    assert "scale of cosines" not in said(
        tmp_path / "vehicles.pth", "MODEL.ID_LOSS_TYPE", "circle", "SOLVER.COSINE_SCALE", "16"
    )


def test_eight_rows_are_taken_as_cameras_and_it_says_so(tmp_path: Path) -> None:
    for rows, words in ((8, "8 rows, taken as cameras and not as views, coefficient 1"), (6, "6 rows, coefficient 1")):
        torch.save(tiny_clipreid(cameras=rows), tmp_path / "m.pth")
        assert f"cameras         {words}\n" in said(tmp_path / "m.pth")


def test_the_coefficient_of_cameras(tmp_path: Path) -> None:
    torch.save(tiny_clipreid(cameras=6), tmp_path / "m.pth")
    assert inspect_checkpoint(tmp_path / "m.pth", sie_coe=2.0).config.camera_coefficient == 2.0
    assert inspect_checkpoint(tmp_path / "m.pth", sie_camera=False).config.camera_coefficient is None
    tiny_transreid.tiny_checkpoint(tmp_path / "t.pth", tiny_transreid.Sizes())
    stated = {"image_size": (64, 32)}
    assert inspect_checkpoint(tmp_path / "t.pth", **stated).config.camera_coefficient == 3.0
    torch.save(tiny_irra(), tmp_path / "irra.pth")
    assert inspect_checkpoint(tmp_path / "irra.pth").config.camera_coefficient is None


def test_labels_are_not_compared_where_no_class_can_be_predicted(tmp_path: Path) -> None:
    torch.save(of_stage_1(tiny_clipreid()), tmp_path / "m.pth")
    person_shard(tmp_path / "train-0.tar", [3, 5, 8, 9, 12], 4)
    text = said(tmp_path / "m.pth", "--shards", tmp_path / "*.tar", "--device", "cpu", "--precision", "fp32")
    assert "labels          not compared: this is a checkpoint of stage 1, whose classifiers were never" in text
    assert "another numbering" not in text
