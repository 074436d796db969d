"""Where the model of a run comes from, so that it can be loaded again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jobs.mining.config import MineConfig
from jobs.mining.model_options import load_with_prompts
from promptsg_core.model import AnyModel
from promptsg_core.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A configuration's checkpoint, and the device to load it to. `overrides` are KEY VALUE words."""

    config: MineConfig
    overrides: tuple[str, ...]
    device: torch.device

    def load(self, precision: str) -> AnyModel:
        """The model in this precision. Raises what `load_model` raises."""
        config = self.config
        return load_with_prompts(
            config.checkpoint,
            config.prompts,
            device=str(self.device),
            precision=precision,
            settings=read_settings(config.model_settings, self.overrides),
            weights_key=config.weights_key,
            image_size=config.image_size,
            prompt_mode=config.prompt_mode,
            neck_feat=config.neck_feat,
            reweight=config.reweight,
            sie_coe=config.sie_coe,
        )
