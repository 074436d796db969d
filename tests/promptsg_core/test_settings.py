"""The ecosystem's YAML and its KEY VALUE overrides."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from promptsg_core import ModelError
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.settings import KEYS, MAP_MODES, read_settings


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
    assert set(settings.model) == {key.field for key in KEYS.values() if ModelConfig.has(key.field)}


# The settings of TransReID's published files that fix the computation, and some that concern training alone.
TRANSREID = """
MODEL: {PRETRAIN_CHOICE: imagenet, METRIC_LOSS_TYPE: triplet, IF_LABELSMOOTH: 'off', IF_WITH_CENTER: 'no',
  NAME: transformer, NO_MARGIN: True, DEVICE_ID: ('7'), TRANSFORMER_TYPE: vit_base_patch16_224_TransReID,
  STRIDE_SIZE: [12, 12], SIE_CAMERA: True, SIE_VIEW: False, SIE_COE: 3, JPM: True, RE_ARRANGE: True, SHIFT_NUM: 8,
  SHUFFLE_GROUP: 2, DEVIDE_LENGTH: 4, ID_LOSS_TYPE: softmax, ID_LOSS_WEIGHT: 1.0, NECK: bnneck, DROP_PATH: 0.1,
  TRIPLET_LOSS_WEIGHT: 1.0, COS_LAYER: False, LAST_STRIDE: 1, DIST_TRAIN: False, ATT_DROP_RATE: 0.0}
INPUT: {SIZE_TRAIN: [256, 128], SIZE_TEST: [256, 128], PROB: 0.5, RE_PROB: 0.5, PADDING: 10}
SOLVER: {COSINE_MARGIN: 0.5, COSINE_SCALE: 30, CENTER_LOSS_WEIGHT: 0.0005}
TEST: {EVAL: True, IMS_PER_BATCH: 256, RE_RANKING: False, WEIGHT: '', NECK_FEAT: before, FEAT_NORM: 'yes'}
"""


def test_the_settings_of_transreid_are_read(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, TRANSREID)).model == {
        "transformer_type": "vit_base_patch16_224_TransReID", "stride": 12, "sie_camera": True, "sie_view": False,
        "sie_coe": 3.0, "jpm": True, "re_arrange": True, "shift_num": 8, "shuffle_group": 2, "devide_length": 4,
        "id_loss_type": "softmax", "image_size": (256, 128), "cosine_scale": 30.0, "neck_feat": "before",
    }  # fmt: skip


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
        ("MODEL: {SIE_CAMERA: 6}", "MODEL.SIE_CAMERA is 6, expected true or false"),
        ("MODEL: {SIE_COE: three}", "MODEL.SIE_COE is 'three', expected a number"),
        ("MODEL: {SHIFT_NUM: 0}", "MODEL.SHIFT_NUM is 0, expected a positive integer"),
        ("MODEL: {SIE_CAMERAS: true}", "unknown key MODEL.SIE_CAMERAS; did you mean MODEL.SIE_CAMERA"),
        (
            "MODEL: {PROMPTSG: {COATTN_TEXT_MODE: full}}",
            "MODEL.PROMPTSG.COATTN_TEXT_MODE is 'full', but only eot is computed",
        ),
        ("MODEL: {PROMPTSG: {ATTN_POOL_MODE: max}}", "ATTN_POOL_MODE is 'max', but only mean is computed"),
        ("MODEL: {PROMPTSG: {INCLUDE_CLS_IN_KV: true}}", "INCLUDE_CLS_IN_KV is True, but only false is computed"),
        ("MODEL: {PROMPTSG: {KV_MODE: full}}", "KV_MODE is 'full', but only patch is computed"),
        ("MODEL: {PROMPTSG: {ENABLE_IADT: true}}", "ENABLE_IADT is True, but only false is computed"),
        ("MODEL: {PROMPTSG: {POST_SEQ_MODE: text}}", "POST_SEQ_MODE is 'text', but only image is computed"),
        ("MODEL: {PROMPTSG: {REWEIGHT_CLS: true}}", "REWEIGHT_CLS is True, but only false is computed"),
        ("MODEL: {PROMPTSG: {REWEIGHT_CLS: 0}}", "REWEIGHT_CLS is 0, but only false is computed"),
        ("MODEL: {PROMPTSG: {REWEIGHT_MODE: add}}", "REWEIGHT_MODE is 'add', expected one of mul_mean1"),
        (
            "MODEL: {PROMPTSG: {REWEIGHT: mul, REWEIGHT_MODE: residual}}",
            "MODEL.PROMPTSG.REWEIGHT is 'mul' and MODEL.PROMPTSG.REWEIGHT_MODE is 'residual', but they are one setting",
        ),
        ("MODEL: {PROMPTSG: {KV_MOD: patch}}", "unknown key .*KV_MOD; did you mean MODEL.PROMPTSG.KV_MODE"),
        ("a: &a {b: *a}", "settings lie deeper than 16 levels"),
        ("? [1, 2]\n: 3", "not YAML"),
        ("- a list", "not a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"s\.yml.*{message}"):
        read_settings(write(tmp_path, text))


COMPUTED = """{COATTN_TEXT_MODE: eot, ATTN_POOL_MODE: mean, ATTN_MAP_MODE: max, INCLUDE_CLS_IN_KV: false,
    KV_MODE: patch, ENABLE_IADT: false, POST_SEQ_MODE: image, REWEIGHT_CLS: off}"""


def test_modes_with_the_value_that_is_computed_pass_and_are_known_as_stated(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, f"MODEL: {{PROMPTSG: {COMPUTED}}}"))
    assert settings.model == {} and settings.stated_modes == frozenset(MAP_MODES)
    words = ["MODEL.PROMPTSG.KV_MODE", "patch", "MODEL.PROMPTSG.ATTN_MAP_MODE", "any"]
    assert read_settings(None, words).stated_modes == {"MODEL.PROMPTSG.KV_MODE"}
    with pytest.raises(ModelError, match=r"the command line: .*KV_MODE is 'full', but only patch"):
        read_settings(None, ["MODEL.PROMPTSG.KV_MODE", "full"])


def test_the_author_s_name_of_the_reweighting_is_the_same_setting(tmp_path: Path) -> None:
    one = write(tmp_path, "MODEL: {PROMPTSG: {REWEIGHT_MODE: residual}}")
    assert read_settings(one).model == {"reweight": "residual"}
    assert read_settings(one, ["MODEL.PROMPTSG.REWEIGHT", "mul"]).model == {"reweight": "mul"}  # words win
    both = read_settings(write(tmp_path, "MODEL: {PROMPTSG: {REWEIGHT_MODE: mul, REWEIGHT: mul}}"))
    assert both.model == {"reweight": "mul"}


def test_keys_that_are_no_text_and_keys_of_training_pass(tmp_path: Path) -> None:
    text = "1: 2\nnull: 3\nMODEL: {1: {2: x}, PROMPTSG: {Q_MODE: x, MAP_MODE: y}, NAME: p}\n2026-01-02: 1\n"
    assert read_settings(write(tmp_path, text)).model == {}


def test_wrong_overrides() -> None:
    with pytest.raises(ModelError, match=r"'TEST.NECK_FEAT' has no value"):
        read_settings(None, ["TEST.NECK_FEAT"])
    with pytest.raises(ModelError, match=r"unknown key TEST.NECK; did you mean TEST.NECK_FEAT\?"):
        read_settings(None, ["TEST.NECK", "after"])
    with pytest.raises(ModelError, match=r"the command line: .*CROSS_ATTN_HEADS is 'eight', expected a positive"):
        read_settings(None, ["MODEL.PROMPTSG.CROSS_ATTN_HEADS", "eight"])
    with pytest.raises(ModelError, match=r"no\.yml"):
        read_settings("no.yml")
