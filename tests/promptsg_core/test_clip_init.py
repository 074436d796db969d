"""CLIP's weights into the towers: both namings, interpolated positions, and refusals by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from promptsg_core.clip_init import clip_config, load_clip, read_clip, resize_positions, to_tower_names
from promptsg_core.errors import CheckpointError
from promptsg_core.families.promptsg.model import PromptSG

WIDTH, TEXT_WIDTH, JOINT, PATCH, SIDE = 64, 128, 32, 4, 6


def clip_state(seed: int = 0) -> dict[str, Tensor]:
    """A CLIP state dict in OpenAI's names: 6x6 patches, two image blocks, three text blocks, 50 words."""
    generator = torch.Generator().manual_seed(seed)

    def block(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.attn.in_proj_weight": (3 * width, width),
            f"{prefix}.attn.in_proj_bias": (3 * width,),
            f"{prefix}.attn.out_proj.weight": (width, width),
            f"{prefix}.attn.out_proj.bias": (width,),
            f"{prefix}.ln_1.weight": (width,),
            f"{prefix}.ln_1.bias": (width,),
            f"{prefix}.mlp.c_fc.weight": (4 * width, width),
            f"{prefix}.mlp.c_fc.bias": (4 * width,),
            f"{prefix}.mlp.c_proj.weight": (width, 4 * width),
            f"{prefix}.mlp.c_proj.bias": (width,),
            f"{prefix}.ln_2.weight": (width,),
            f"{prefix}.ln_2.bias": (width,),
        }

    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, TEXT_WIDTH),
        "text_projection": (TEXT_WIDTH, JOINT),
        "logit_scale": (),
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + SIDE * SIDE, WIDTH),
        "visual.proj": (WIDTH, JOINT),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "token_embedding.weight": (50, TEXT_WIDTH),
    }
    for norm, width in (("visual.ln_pre", WIDTH), ("visual.ln_post", WIDTH), ("ln_final", TEXT_WIDTH)):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for number in range(2):
        shapes |= block(f"visual.transformer.resblocks.{number}", WIDTH)
    for number in range(3):
        shapes |= block(f"transformer.resblocks.{number}", TEXT_WIDTH)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def open_clip_state(seed: int = 0) -> dict[str, Tensor]:
    """The same tensors as open_clip names them when the text tower is a module of its own, with its mask."""
    text = ("positional_embedding", "text_projection", "token_embedding.", "ln_final.", "transformer.")
    state = {f"text.{key}" if key.startswith(text) else key: t for key, t in clip_state(seed).items()}
    return state | {"text.attn_mask": torch.full((77, 77), -torch.inf).triu(1)}


@pytest.mark.parametrize("naming", ["openai", "openai-traced", "open_clip", "open_clip-wrapped"])
def test_both_namings_fill_both_towers(tmp_path: Path, naming: str) -> None:
    plain = clip_state()
    path = tmp_path / "clip.pth"
    if naming == "openai-traced":  # the scalars that come with torch.jit.load(...).state_dict(), and its half precision
        scalars = {"input_resolution": 24, "context_length": 77, "vocab_size": 50}
        plain = {key: tensor.half() for key, tensor in plain.items()}
        torch.save(plain | {key: torch.tensor(value) for key, value in scalars.items()}, path)
    elif naming == "open_clip":
        path = tmp_path / "clip.safetensors"
        save_file(open_clip_state(), path)
    elif naming == "open_clip-wrapped":
        torch.save({"state_dict": {f"module.{key}": t for key, t in open_clip_state().items()}, "epoch": 3}, path)
    else:
        torch.save(plain, path)
    state = read_clip(path)
    config = clip_config(state, image_size=(24, 24), num_classes=5)
    assert (config.vision_width, config.vision_layers, config.vision_heads, config.patch_size) == (WIDTH, 2, 1, PATCH)
    assert (config.text_width, config.text_layers, config.text_heads, config.vocab_size) == (TEXT_WIDTH, 3, 2, 50)
    assert (config.embed_dim, config.grid) == (JOINT, (SIDE, SIDE))
    model = PromptSG(config)
    untouched = model.mim.cross_attn.q_proj.weight.clone()
    load_clip(model, state)
    assert torch.equal(model.mim.cross_attn.q_proj.weight, untouched)
    expected = {key: tensor.float() for key, tensor in plain.items()}
    tower, text = model.image_encoder, model.text_encoder
    assert torch.equal(tower.positional_embedding, expected["visual.positional_embedding"])
    for key in (k.removeprefix("visual.") for k in expected if k.startswith("visual.")):
        assert torch.equal(tower.state_dict()[key], expected[f"visual.{key}"]), key
    for key in text.state_dict():
        assert torch.equal(text.state_dict()[key], expected[key]), key
    assert torch.equal(model.prompt_composer.token_embedding.weight, expected["token_embedding.weight"])


def test_positions_are_kept_on_an_equal_grid() -> None:
    embedding = torch.randn(1 + 36, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(resize_positions(embedding, (6, 6)), embedding)
    crop = torch.randn(1 + 8, 8, generator=torch.Generator().manual_seed(1))  # already on a grid of person crops
    assert torch.equal(resize_positions(crop, (4, 2)), crop)


def test_positions_are_interpolated_as_an_image() -> None:
    embedding = torch.randn(1 + 9, 5, generator=torch.Generator().manual_seed(2))
    resized = resize_positions(embedding, (4, 2))
    assert torch.equal(resized[0], embedding[0])
    for channel in range(5):
        plane = torch.tensor([[embedding[1 + 3 * row + column, channel] for column in range(3)] for row in range(3)])
        expected = F.interpolate(plane[None, None], size=(4, 2), mode="bilinear", align_corners=False)[0, 0]
        for row in range(4):
            for column in range(2):
                assert resized[1 + 2 * row + column, channel] == pytest.approx(expected[row, column].item(), abs=1e-6)


def test_a_ramp_of_positions_stays_a_ramp() -> None:
    # Row y of four holds y: on eight rows, centre y' of the new grid lies at (y' + 0.5) / 2 - 0.5 of the old one.
    rows = torch.arange(4.0).repeat_interleave(4).unsqueeze(1)
    resized = resize_positions(torch.cat([torch.tensor([[9.0]]), rows]), (8, 2))[1:, 0].unflatten(0, (8, 2))
    expected = [min(max((y + 0.5) / 2 - 0.5, 0.0), 3.0) for y in range(8)]
    assert torch.allclose(resized, torch.tensor(expected).unsqueeze(1).expand(8, 2))


def test_positions_of_no_square_are_refused() -> None:
    with pytest.raises(CheckpointError, match="10 patches: no square grid to interpolate to 4x2"):
        resize_positions(torch.zeros(11, 3), (4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.trunk.blocks.0.norm1.weight": torch.ones(3)}, "timm"),
        ({"visual.layer1.0.conv1.weight": torch.ones(3)}, "ResNet"),
        ({"vision_model.post_layernorm.weight": torch.ones(3)}, "Hugging Face"),
        ({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(3)}, "layer scale"),
        ({"image_encoder.proj": torch.ones(3)}, "PromptSG"),
        ({"surprise": torch.ones(3)}, "no tower has a place for surprise"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    torch.save(clip_state() | change, tmp_path / "clip.pth")
    with pytest.raises(CheckpointError, match=rf"clip\.pth.*{message}"):
        read_clip(tmp_path / "clip.pth")


def test_a_missing_or_misshapen_tensor_is_named() -> None:
    state = to_tower_names(clip_state())
    model = PromptSG(clip_config(state, image_size=(24, 24), num_classes=5))
    lacking = {key: t for key, t in state.items() if key != "text_encoder.ln_final.bias"}
    with pytest.raises(CheckpointError, match=r"lacks text_encoder\.ln_final\.bias"):
        load_clip(model, lacking)
    with pytest.raises(CheckpointError, match=r"ln_post\.bias is \(3,\), expected \(64,\)"):
        load_clip(model, state | {"image_encoder.ln_post.bias": torch.zeros(3)})


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.jit\.load"):
        read_clip(tmp_path / "ViT-B-16.pt")
