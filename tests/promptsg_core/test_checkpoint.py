"""Checkpoints: what loads, what is refused, and with which words."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from promptsg_core import CheckpointError, ModelError, inspect_checkpoint, load_model
from promptsg_core.settings import MAP_MODES, read_settings
from tests.support.tiny import TINY, random_images, tiny_checkpoint, tiny_state

# Told, because 8x4 patches are no published layout.
SIZE = {"image_size": (32, 16), "stride": 4}


def load(path: Path, **given: Any) -> Any:
    return load_model(path, device="cpu", precision="fp32", **{**SIZE, **given})


@pytest.fixture
def state() -> dict[str, Tensor]:
    return tiny_state()[1]


def test_the_configuration_comes_from_the_tensors(tmp_path: Path) -> None:
    config = tiny_checkpoint(tmp_path / "m.pth")
    model = load(tmp_path / "m.pth", vision_heads=1)
    assert model.config == config
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("rows", "size", "stride", "grid"),
    [
        (128, (256, 128), 16, (16, 8)),
        (210, (256, 128), 12, (21, 10)),
        (242, (256, 128), 11, (22, 11)),
        (310, (384, 128), 12, (31, 10)),
        (441, (256, 256), 12, (21, 21)),
    ],
)
def test_known_grids_follow_from_the_positional_embedding(
    tmp_path: Path, rows: int, size: tuple[int, int], stride: int, grid: tuple[int, int]
) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=size, patch_size=16, stride=stride)
    config = inspect_checkpoint(tmp_path / "m.pth").config
    assert (config.image_size, config.stride, config.grid) == (size, stride, grid)
    assert grid[0] * grid[1] == rows


@pytest.mark.parametrize(
    ("size", "others"),
    [
        ((384, 128), r"192 patches, which are 24x8 \(images of 384x128\) or 16x12 \(images of 256x192\)"),
        ((256, 192), r"192 patches, which are 24x8 \(images of 384x128\) or 16x12 \(images of 256x192\)"),
        ((256, 256), r"256 patches, which are 16x16 \(images of 256x256\) or 32x8 \(images of 512x128\)"),
        ((512, 128), r"256 patches, which are 16x16 \(images of 256x256\) or 32x8 \(images of 512x128\)"),
    ],
)
def test_rows_that_fit_two_grids_ask_which_and_take_the_answer(
    tmp_path: Path, size: tuple[int, int], others: str
) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=size, patch_size=16, stride=16)
    with pytest.raises(ModelError, match=rf"m\.pth: the positional embedding has {others}: say which by --image-size"):
        inspect_checkpoint(tmp_path / "m.pth")
    config = inspect_checkpoint(tmp_path / "m.pth", image_size=size).config
    assert (config.image_size, config.stride, config.grid) == (size, 16, (size[0] // 16, size[1] // 16))


def test_an_unknown_grid_asks_for_the_image_size_and_takes_it(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(72, 36))
    with pytest.raises(ModelError, match=r"162 patches, which is no known layout: give the image size"):
        inspect_checkpoint(tmp_path / "m.pth")
    assert inspect_checkpoint(tmp_path / "m.pth", image_size=(72, 36)).config.grid == (18, 9)


@pytest.mark.parametrize("wrap", ["bare", "module", "state_dict", "model", "safetensors", "old format"])
def test_containers_and_prefixes(tmp_path: Path, state: dict[str, Tensor], wrap: str) -> None:
    path = tmp_path / ("m.safetensors" if wrap == "safetensors" else "m.pth")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "module":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    elif wrap in ("state_dict", "model"):
        torch.save({wrap: state, "epoch": 60}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=wrap != "old format")
    images = random_images(tiny_state()[0], 2)
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    torch.testing.assert_close(load(path)(images), load(plain)(images))


def as_family_e(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"norm1": "ln1", "norm2": "ln2", "attn.qkv.weight": "attn.in_proj_weight", "attn.proj": "attn.out_proj",
             "attn.qkv.bias": "attn.in_proj_bias", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}  # fmt: skip
    out = {}
    for key, tensor in state.items():
        if key.startswith("mim.post_blocks"):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
        if not key.startswith("mim.cross_attn"):
            out[key] = tensor
    for kind in ("weight", "bias"):
        parts = [state[f"mim.cross_attn.{p}_proj.{kind}"] for p in "qkv"]
        out[f"mim.cross_attn.in_proj_{kind}"] = torch.cat(parts)
        out[f"mim.cross_attn.out_proj.{kind}"] = state[f"mim.cross_attn.out_proj.{kind}"]
    # What attention gathers is discarded in training, so that these keep their first value.
    out["mim.cross_attn.in_proj_bias"][-len(out["mim.cross_attn.out_proj.bias"]) :] = 0
    out["mim.cross_attn.out_proj.bias"] = torch.zeros_like(out["mim.cross_attn.out_proj.bias"])
    return out


MODES = [word for key, value in MAP_MODES.items() for word in (key, str(value))]


def test_family_e_is_the_same_computation(tmp_path: Path) -> None:
    config, state = tiny_state(mim_qkv_bias=True)
    torch.save(state, tmp_path / "h.pth")
    torch.save(as_family_e(state), tmp_path / "e.pth")
    images = random_images(config, 2)
    h, e = load(tmp_path / "h.pth", settings=read_settings(None, MODES)), load(tmp_path / "e.pth")
    torch.testing.assert_close(e(images), h(images))
    torch.testing.assert_close(e.get_attention_map(images), h.get_attention_map(images))
    assert inspect_checkpoint(tmp_path / "e.pth", **SIZE).family == "E"


@pytest.mark.parametrize(
    ("key", "row", "named"),
    [
        ("mim.cross_attn.out_proj.bias", 3, r"mim\.cross_attn\.out_proj\.bias is not 0"),
        ("mim.cross_attn.in_proj_bias", -1, r"the value third of mim\.cross_attn\.in_proj_bias is not 0"),
    ],
)
def test_an_attention_whose_result_is_used_is_refused_by_name(tmp_path: Path, key: str, row: int, named: str) -> None:
    state = as_family_e(tiny_state(mim_qkv_bias=True)[1])
    state[key][row] = 1e-3
    torch.save(state, tmp_path / "e.pth")
    with pytest.raises(CheckpointError, match=rf"e\.pth: {named}: not family E.* attends to CLS and patches"):
        load(tmp_path / "e.pth")


def test_family_h_with_biased_post_blocks_needs_its_modes_stated(tmp_path: Path) -> None:
    torch.save(tiny_state(mim_qkv_bias=True)[1], tmp_path / "h.pth")
    with pytest.raises(
        CheckpointError, match=r"h\.pth: .*attn\.qkv\.bias.* MODEL\.PROMPTSG\.COATTN_TEXT_MODE eot MODEL"
    ):
        load(tmp_path / "h.pth")
    some = read_settings(None, MODES[:-2])
    with pytest.raises(CheckpointError, match=r"as KEY VALUE: MODEL\.PROMPTSG\.REWEIGHT_CLS false$"):
        load(tmp_path / "h.pth", settings=some)
    assert load(tmp_path / "h.pth", settings=read_settings(None, MODES)).config.mim_qkv_bias


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mim.cross_norm.weight", "family D"),
        ("mim.post_blocks.0.mlp.2.weight", "family D"),
        ("cross_guidance.attn.weight", "family A, B or C"),
        ("interaction.q.weight", "family F or G"),
        ("attr_tokenizer.weight", "family IADT"),
        ("image_encoder.layer1.0.conv1.weight", "family RN50"),
        ("backbone.weight", "no known family of checkpoints has these 1 keys"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path: Path, key: str, name: str) -> None:
    torch.save({key: torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=rf"m\.pth: .*{name}"):
        inspect_checkpoint(tmp_path / "m.pth")


def test_every_key_that_does_not_fit_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["extra.weight"] = torch.zeros(2)
    del state["mim.q_ln.bias"]
    state["classifier.weight"] = torch.zeros(7, 5)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.pth")
    message = str(caught.value)
    shapes = "classifier.weight is (7, 5), expected (7, 64)"
    for part in ("m.pth", "missing mim.q_ln.bias", "unexpected extra.weight", shapes):
        assert part in message


@pytest.mark.parametrize(
    "key",
    ["mim.cross_attn.q_proj.weight", "image_encoder.conv1.weight", "inversion.fc1.weight", "classifier_proj.weight"],
)
def test_a_lost_tensor_is_named_wherever_it_is(tmp_path: Path, state: dict[str, Tensor], key: str) -> None:
    del state[key]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"m\.pth.*" + (key if "q_proj" not in key else "mim.cross_attn")):
        load(tmp_path / "m.pth")


def test_nan_weights_are_refused_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["mim.post_blocks.1.mlp.fc1.weight"][3, 4] = float("nan")
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in mim\.post_blocks\.1\.mlp\.fc1\.weight"):
        load(tmp_path / "m.pth")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "m.pth", tmp_path / "ran"
    torch.save({"a": _Bomb(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="code in a checkpoint is never run"):
        load(path)
    path.write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(CheckpointError, match=r"m\.pth: not loaded"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
        (b"", "truncated, damaged or not"),
        (b"hello, world\n" * 9, "(truncated, damaged or not a PyTorch checkpoint|not loaded: )"),
        (b"\x80\x02]q\x00.", "truncated, damaged or not"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"m\.pth: .*{reason}"):
        load(tmp_path / "m.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, state: dict[str, Tensor], suffix: str, share: float) -> None:
    path = tmp_path / f"m{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert any(words in str(error.value) for words in ("truncated, damaged or not", "not a readable safetensors file"))


def test_tensors_that_are_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds list, not a state dict"):
        load(tmp_path / "m.pth")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="epoch, lr are not tensors"):
        load(tmp_path / "m.pth")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing\.pth does not exist"):
        load(tmp_path / "nothing.pth")


def test_a_value_that_contradicts_the_tensors_names_both(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"mim_layers is 3 in the configuration, but the checkpoint's tensors say 2"):
        load(tmp_path / "m.pth", mim_layers=3)
    with pytest.raises(ModelError, match=r"grid of 16x4 = 64 patches, but .* positional embedding has 32"):
        load(tmp_path / "m.pth", image_size=(64, 16))
    with pytest.raises(ModelError, match=r"image_size is 64, expected \(height, width\)"):
        load(tmp_path / "m.pth", image_size=64)


def test_a_field_that_does_not_exist_is_answered_with_the_nearest(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"the configuration has no field 'prompt_mod'; did you mean prompt_mode\?"):
        load(tmp_path / "m.pth", prompt_mod="simplified")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_keeps_statistics_and_classifiers_in_float32(tmp_path: Path, precision: str) -> None:
    tiny_checkpoint(tmp_path / "m.pth")
    model = load_model(tmp_path / "m.pth", device="cpu", precision=precision, **SIZE)
    assert model.image_encoder.proj.dtype == model.mim.q_ln.weight.dtype != torch.float32
    assert model.bottleneck_proj.running_var.dtype == model.classifier_proj.weight.dtype == torch.float32


def test_devices_and_precisions_that_are_not_there(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth")
    with pytest.raises(ModelError, match="precision 'half' is not one of auto, bf16, fp16, fp32, tf32"):
        load_model(tmp_path / "m.pth", precision="half")
    with pytest.raises(ModelError, match="device 'gpu' is not one"):
        load_model(tmp_path / "m.pth", device="gpu")
    with pytest.raises(ModelError, match="'cuda:99' is not there"):
        load_model(tmp_path / "m.pth", device="cuda:99")


def test_tiny_sizes_are_all_different() -> None:
    assert len({TINY["vision_width"], TINY["embed_dim"], *TINY["inversion_widths"], TINY["num_classes"]}) == 5


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff\xd8\xff\xe0" + bytes(64), "a JPEG image"),
        (b"\x89PNG\r\n" + bytes(64), "a PNG image"),
        (b"\x89HDF\r\n" + bytes(64), "an HDF5 file"),
        (bytes(257) + b"ustar" + bytes(300), "a tar, such as"),
        (b"\n<!doctype html>\n<HTML>", "an HTML page"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"x.pth: not loaded: it is {what}"):
        inspect_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_mode": "simplified"}, "prompt_mode is simplified in the settings, .* trained with composed"),
        ({"mean": (0.4, 0.5, 0.5)}, r"mean is \(0.4, 0.5, 0.5\) .* trained with \(0.5, 0.5, 0.5\)"),
    ],
)
def test_what_a_file_says_of_itself_is_not_contradicted(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """As `promptsg train` writes it. The neck is chosen when features are read, so it may be another one."""
    config, tensors = tiny_state()
    path = tmp_path / "own.safetensors"
    save_file(tensors, path, {"promptsg.config": json.dumps(config.to_dict())})
    with pytest.raises(ModelError, match=message):
        load(path, **given)
    assert load(path, prompt_mode="composed", neck_feat="after").config.neck_feat == "after"


def test_a_stride_does_not_leave_pixels_out(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth")
    patch = tiny_state()[0].patch_size
    with pytest.raises(ModelError, match=f"stride .* it is at most {patch}"):
        load(tmp_path / "m.pth", image_size=(64, 32), stride=patch + 1)


def test_a_cut_vocabulary_without_its_token_rows_is_refused_at_once(tmp_path: Path) -> None:
    """Saved again as a bare state dict: which tokens the rows are is lost."""
    _, tensors = tiny_state()
    name = "prompt_composer.token_embedding.weight"
    torch.save({**tensors, name: tensors[name][:7].clone()}, tmp_path / "cut.pth")
    for read in (inspect_checkpoint, load_model):
        with pytest.raises(ModelError, match="has 7 rows and does not say which tokens they are"):
            read(tmp_path / "cut.pth", **SIZE)
