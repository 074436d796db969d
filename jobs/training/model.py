"""The model of a training at its start, and its optimizer."""

from __future__ import annotations

import torch

from jobs.training.config import TrainConfig
from promptsg_core.clip_init import clip_config, load_clip, read_clip
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.training import parameter_groups, prepare_training, small_config


def build_model(config: TrainConfig, num_classes: int) -> PromptSG:
    """The model at its start, on the CPU and in train mode. What is random comes from the seed."""
    torch.manual_seed(config.seed)
    sizes: dict[str, tuple[int, int] | int] = {"image_size": config.image_size}
    if config.stride is not None:
        sizes["stride"] = config.stride
    if config.init is None:
        model = PromptSG(small_config(num_classes, **sizes))
    else:
        clip = read_clip(config.init)
        model = PromptSG(clip_config(clip, num_classes=num_classes, **sizes))
        load_clip(model, clip)
    return prepare_training(model, freeze_text=config.init is not None)


def build_optimizer(model: PromptSG, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, whose weight decay is part of the gradient, or AdamW, where it is apart. One rate for each group."""
    groups = parameter_groups(model, config.rates, config.weight_decay)
    return torch.optim.Adam(groups) if config.optimizer == "adam" else torch.optim.AdamW(groups)
