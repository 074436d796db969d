"""One small random model of each kind, built in memory: for tests that go through all families."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from promptsg_core.families.clipreid import ClipReid, ClipReidConfig
from promptsg_core.families.irra import Irra, IrraConfig
from promptsg_core.families.osnet import OSNet, OSNetConfig
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.families.transreid.config import TransReidConfig
from promptsg_core.families.transreid.model import TransReid
from promptsg_core.model import AnyModel
from promptsg_core.tokenise import make_prompt
from tests.support.tiny import TINY

CAPTIONS = ("a man with a red bag", None, "a woman in black")
_CLIP = {
    "image_size": (32, 16),
    "patch_size": 8,
    "stride": 8,
    "vision_width": 64,
    "vision_layers": 2,
    "vision_heads": 1,
    "embed_dim": 32,
    "num_classes": 5,
}
_TEXT = {"text_width": 32, "text_layers": 2}
_TRANSREID = {"image_size": (64, 32), "vision_width": 64, "vision_layers": 2, "vision_heads": 2, "mlp_width": 96,
              "num_classes": 5, "camera_rows": 4, "sie_camera": True}  # fmt: skip


def _promptsg(**changes: object) -> AnyModel:
    """Families H and E are this one class."""
    fields = {**TINY, "vision_layers": 2, "text_layers": 1, "neck_feat": "after", "vocab_size": 49408, **changes}
    model = PromptSG(ModelConfig(**fields))
    model.add_prompts({"bag": make_prompt("a person with a bag")})
    return model


def _irra() -> AnyModel:
    model = Irra(IrraConfig(**_CLIP, **_TEXT, text_heads=1, cross_heads=2))  # type: ignore[arg-type]
    model.add_prompts({"worn": make_prompt("a man in red"), "red": make_prompt("red")})
    return model


def _jpm(**changes: object) -> AnyModel:
    return TransReid(TransReidConfig(jpm=True, **{**_TRANSREID, **changes}))  # type: ignore[arg-type]


_BUILDERS: Mapping[str, Callable[[], AnyModel]] = {
    "promptsg composed": _promptsg,
    "promptsg simplified": lambda: _promptsg(prompt_mode="simplified", reweight="residual"),
    "clipreid": lambda: ClipReid(ClipReidConfig(**_CLIP, **_TEXT, camera_rows=4)),  # type: ignore[arg-type]
    "transreid jpm": _jpm,
    "transreid": lambda: TransReid(TransReidConfig(**_TRANSREID, id_loss_type="arcface")),  # type: ignore[arg-type]
    "irra": _irra,
    "osnet": lambda: OSNet(
        OSNetConfig(image_size=(64, 32), channels=(8, 64, 96, 128), feature_length=24, num_classes=5)
    ),
    "osnet ain": lambda: OSNet(
        OSNetConfig(image_size=(64, 32), channels=(8, 64, 96, 128), feature_length=24, num_classes=5, variant="ain")
    ),
}
KINDS = tuple(_BUILDERS)


def small_model(kind: str, seed: int = 0) -> AnyModel:
    """A frozen model of one of KINDS as `load_model` leaves it, in float32 on the CPU; parameters are random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _BUILDERS[kind]()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.1 * torch.rand(tensor.shape))  # else a lost bias or factor would not show
    model.requires_grad_(False).eval().made_ready()
    return model
