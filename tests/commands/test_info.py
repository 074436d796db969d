"""`promptsg info`: what it says of a checkpoint, and what it says is assumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.commands.info import command
from tests.support.tiny import tiny_checkpoint

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
    return result.output


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
