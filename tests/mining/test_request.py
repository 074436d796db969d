"""What identifies a request to mine, and that settings added later leave earlier runs as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.mining.config import MineConfig, build_config
from jobs.mining.request import request_of
from jobs.runs.request import RequestedSettings, setting_differences

# What version 0.1 recorded.
RECORDED_BEFORE = {
    "prompts", "maps", "target", "label_map", "reference", "reference_split", "attention_heads", "gradcam_plus_plus",
    "precision", "model_settings", "prompt_mode", "neck_feat", "reweight", "interpolation", "max_image_pixels",
    "checkpoint_sha256", "overrides",
}  # fmt: skip


def asked(tmp_path: Path, **values: object) -> RequestedSettings:
    (tmp_path / "m.pth").write_bytes(b"weights")
    options = {"shards": ("a.tar",), "checkpoint": tmp_path / "m.pth", "output": tmp_path, **values}
    return request_of(build_config(None, options), (), ()).asked


def test_without_a_value_what_was_added_later_is_not_recorded(tmp_path: Path) -> None:
    assert asked(tmp_path).as_json().keys() == RECORDED_BEFORE


def test_another_state_dict_or_size_is_another_run(tmp_path: Path) -> None:
    before = asked(tmp_path).as_json()
    other = asked(tmp_path, weights_key="state_dict_ema", image_size="384x128")
    assert (other.weights_key, other.image_size) == ("state_dict_ema", (384, 128))
    assert setting_differences(before, other.as_json()) == [
        "image_size was null and is now [384, 128]",
        'weights_key was null and is now "state_dict_ema"',
    ]


def test_the_image_size_is_height_by_width() -> None:
    assert MineConfig(shards=("a",), checkpoint="m", output="r", image_size=[256, 192]).image_size == (256, 192)
    with pytest.raises(UserError, match=r"image size .384.128.: give height and width in pixels, such as 384x128"):
        build_config(None, {"shards": ("a",), "checkpoint": "m", "output": "r"}, ["image_size='384*128'"])


def test_a_key_of_the_configuration_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("1: 2\n")
    with pytest.raises(UserError, match=r"unknown setting 1\. Settings are shards"):
        build_config(tmp_path / "c.yml", {})
