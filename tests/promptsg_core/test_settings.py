"""The ecosystem's YAML and its KEY VALUE overrides."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from promptsg_core import ModelError
from promptsg_core.settings import KEYS, read_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.yml"
    path.write_text(text)
    return path


def test_the_shipped_preset_states_the_published_model() -> None:
    settings = read_settings(Path(str(files("configs") / "person" / "vit_promptsg.yml")))
    assert settings.weight is None
    assert settings.model == {
        "prompt_mode": "composed", "mim_heads": 8, "mim_layers": 2, "reweight": "mul_mean1", "stride": 16,
        "image_size": (256, 128), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "neck_feat": "before",
    }  # fmt: skip
    assert len(settings.model) == len(KEYS)


def test_keys_of_training_pass_and_overrides_win(tmp_path: Path) -> None:
    text = "SOLVER: {MAX_EPOCHS: 60}\nMODEL: {STRIDE_SIZE: [16, 16], PROMPTSG: {PROMPT_MODE: composed, LAMBDA: 1}}\n"
    settings = read_settings(
        write(tmp_path, text),
        ["MODEL.PROMPTSG.PROMPT_MODE", "simplified", "TEST.WEIGHT", "a (b).pth", "INPUT.SIZE_TEST", "(384, 128)"],
    )
    assert settings.model == {"stride": 16, "prompt_mode": "simplified", "image_size": (384, 128)}
    assert settings.weight == "a (b).pth"


def test_tuples_written_as_the_ecosystem_writes_them(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "INPUT: {PIXEL_MEAN: '(0.5, 0.4, 0.3)', SIZE_TEST: '(256,128)'}"))
    assert settings.model == {"mean": (0.5, 0.4, 0.3), "image_size": (256, 128)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL: {PROMPTSG: {PROMPT_MOD: composed}}",
            "unknown key .*PROMPT_MOD; did you mean MODEL.PROMPTSG.PROMPT_MODE",
        ),
        ("MODEL: {PROMPTSG: {PROMPT_MODE: composite}}", "'composite', expected one of composed, simplified"),
        ("MODEL: {STRIDE_SIZE: [16, 12]}", "expected the same stride down and across"),
        ("INPUT: {SIZE_TEST: 256}", r"INPUT.SIZE_TEST is 256, expected a pair of positive integers"),
        ("INPUT: {PIXEL_STD: [1, 2]}", "expected three numbers"),
        ("- a list", "not a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"s\.yml.*{message}"):
        read_settings(write(tmp_path, text))


def test_wrong_overrides() -> None:
    with pytest.raises(ModelError, match=r"'TEST.NECK_FEAT' has no value"):
        read_settings(None, ["TEST.NECK_FEAT"])
    with pytest.raises(ModelError, match=r"unknown key TEST.NECK; did you mean TEST.NECK_FEAT\?"):
        read_settings(None, ["TEST.NECK", "after"])
    with pytest.raises(ModelError, match=r"the command line: .*CROSS_ATTN_HEADS is 'eight', expected a positive"):
        read_settings(None, ["MODEL.PROMPTSG.CROSS_ATTN_HEADS", "eight"])
    with pytest.raises(ModelError, match=r"no\.yml"):
        read_settings("no.yml")
