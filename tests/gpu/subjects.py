"""The models that are tried on a GPU: tiny ones of every family, and a ViT-B/16 of the usual size, with random weights.

Each is a checkpoint that `load_model` reads, so that what loading does to a model is tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cam.available import map_names
from cam.extract import Extraction, extract_maps
from cam.targets import Target
from jobs.mining.config import MineConfig
from promptsg_core.checkpoint import load_model
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.model import AnyModel
from promptsg_core.precision import PRECISIONS
from promptsg_core.prompts import PROMPTS
from tests.gpu.setting import Setting
from tests.support import tiny_transreid
from tests.support.imports import REPOSITORY
from tests.support.tiny import TINY, tiny_state
from tests.support.tiny_clipreid import tiny_clipreid
from tests.support.tiny_irra import tiny_irra
from tests.support.tiny_osnet import tiny_osnet

SEVEN = ("mim_attention", *(f"{method}/{layer}" for method in ("gradcam", "gradcam++")
                            for layer in ("mim", "vit_last", "vit_proj")))  # fmt: skip
# Those that this version knows, the most exact first.
KNOWN_PRECISIONS = tuple(name for name in ("fp32", "tf32", "fp16", "bf16") if name in PRECISIONS)
DEMO = REPOSITORY / "configs" / "demo" / "pedestrians.safetensors"
CAPTION = "caption"  # the name of the text that each image may have


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be tried. `state` makes its checkpoint's tensors; `image_size` and `stride` are what they do not tell.

    `head` is the head whose score is explained, and `target` the target's name. `prompted` adds a text, which has maps
    of its own. `cameras` is how many cameras there are embeddings of. `captioned` gives each image a text, which needs
    open_clip.
    """

    state: Callable[[], object]
    image_size: tuple[int, int] | None = None
    stride: int | None = None
    head: str | None = None
    target: str = "predicted"
    prompted: bool = False
    cameras: int = 0
    captioned: bool = False

    def save(self, folder: Path) -> Path:
        """Writes the checkpoint into a folder."""
        path = folder / "model.pth"
        torch.save(self.state(), path)
        return path

    def load(self, checkpoint: Path, device: torch.device, precision: str) -> AnyModel:
        """The model on a device, from the checkpoint that `save` has written."""
        model = load_model(
            checkpoint, device=str(device), precision=precision, image_size=self.image_size, stride=self.stride
        )
        if self.prompted:
            model.add_prompts({"person": PROMPTS["simplified"]})
        return model

    def maps(self, model: AnyModel) -> tuple[str, ...]:
        """The names of all maps that the model has for the head and the target, those of texts included."""
        names = [*map_names(model, "all", "all", self.target, self.head), *model.native_maps]
        return tuple(dict.fromkeys(name for name in names if self.captioned or not name.endswith(f":{CAPTION}")))

    def extract(
        self, model: AnyModel, images: Tensor, maps: tuple[str, ...] | None = None, target: str | Target | None = None
    ) -> Extraction:
        """uint8 (B, 3, H, W) on the host -> all maps, or those that are named."""
        return extract_maps(
            model,
            images,
            self.maps(model) if maps is None else maps,
            self.target if target is None else target,
            head=self.head,
            cameras=torch.arange(len(images)) % self.cameras if self.cameras else None,
            captions=[f"person number {n} in a red coat" for n in range(len(images))] if self.captioned else None,
        )


def usual_size() -> dict[str, Tensor]:
    """The tensors of a PromptSG of the usual size: ViT-B/16 at 256x128 and 751 classes."""
    usual = ModelConfig()
    _, state = tiny_state(**{**{name: getattr(usual, name) for name in TINY}, "num_classes": 751})
    return state


_HALF = (64, 32)
_PLAIN = tiny_transreid.Sizes(jpm=False, cameras=0)
_STRIPES = tiny_transreid.Sizes(jpm=True, cameras=6)

TINY_SUBJECTS: Mapping[str, Subject] = {
    "PromptSG": Subject(state=lambda: tiny_state(image_size=_HALF)[1], image_size=_HALF, prompted=True),
    "CLIP-ReID": Subject(state=tiny_clipreid, image_size=_HALF),
    "CLIP-ReID, head cls, cameras": Subject(
        state=lambda: tiny_clipreid(cameras=6), image_size=_HALF, head="cls", cameras=6
    ),
    "CLIP-ReID, both heads": Subject(state=lambda: tiny_clipreid(prompts=False), image_size=_HALF, head="both"),
    "TransReID": Subject(state=lambda: tiny_transreid.tiny_state(_PLAIN), image_size=_HALF, stride=16),
    "TransReID, JPM, all heads, cameras": Subject(
        state=lambda: tiny_transreid.tiny_state(_STRIPES), image_size=_HALF, stride=16, head="all", cameras=6
    ),
    "IRRA": Subject(state=lambda: {"model": tiny_irra()}, prompted=True),
    "IRRA, target text": Subject(state=lambda: {"model": tiny_irra(classes=0)}, target="text", prompted=True),
    "IRRA, captions": Subject(state=lambda: {"model": tiny_irra()}, captioned=True),
    "OSNet": Subject(state=tiny_osnet, image_size=_HALF),
    "OSNet-IBN": Subject(state=lambda: tiny_osnet("ibn"), image_size=_HALF),
    "OSNet-AIN": Subject(state=lambda: tiny_osnet("ain"), image_size=_HALF),
}
USUAL = Subject(state=usual_size, image_size=(256, 128))


def measured_subject(setting: Setting) -> Subject:
    """The model whose speed is measured: that of the usual size, or a tiny one to try the program."""
    return TINY_SUBJECTS["PromptSG"] if setting.small else USUAL


def job_of(maps: tuple[str, ...], batch: int) -> MineConfig:
    """The configuration of a job with these maps and this batch size, for the pass that it would run."""
    places = {"shards": ("s.tar",), "checkpoint": Path("m.pth"), "output": Path("RUN")}
    return MineConfig.model_validate({**places, "maps": maps, "batch_size": batch})
