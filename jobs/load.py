"""Loads what a worker needs of torch: the model on its device, checked against every map, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cam.extract import check_reachable
from cam.names import parse_names
from jobs.batch_targets import TargetSource, target_source
from jobs.config import MineConfig
from jobs.errors import UserError
from jobs.shards import Shard
from promptsg_core.checkpoint import load_model
from promptsg_core.model import PromptSG
from promptsg_core.precision import resolve_device, resolve_precision
from promptsg_core.settings import read_settings
from promptsg_core.tokenise import make_prompt


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to mine; `resolved` is what the configuration's `auto` and the checkpoint came to."""

    model: PromptSG
    targets: TargetSource
    resolved: dict[str, Any]


def load(config: MineConfig, overrides: Sequence[str], shards: Sequence[Shard], local_rank: int = 0) -> Loaded:
    """Loads the model and checks that every map can be had, before anything is written.

    Raises UserError, ModelError or CamError, each naming what does not fit.
    """
    device = device_of_rank(config.device, local_rank)
    precision = resolve_precision(config.precision, device)
    prompts = {name: make_prompt(text) for name, text in config.prompts.items()}
    model = load_model(
        config.checkpoint,
        device=str(device),
        precision=precision,
        settings=read_settings(config.model_settings, overrides),
        prompt_mode=config.prompt_mode,
        neck_feat=config.neck_feat,
        reweight=config.reweight,
    )
    model.prompts.update(prompts)
    check_reachable(model, parse_names(config.maps), config.target, config.gradcam_plus_plus)
    targets = target_source(config, shards, model)
    return Loaded(model=model, targets=targets, resolved={"precision": precision, "model": model.config.to_dict()})


def device_of_rank(name: str, local_rank: int) -> torch.device:
    """One GPU per rank where the device is `auto` or `cuda`; any number of ranks share the CPU.

    Raises UserError where a node has fewer visible GPUs than ranks.
    """
    if local_rank == 0 or name not in ("auto", "cuda") or (name == "auto" and not torch.cuda.is_available()):
        return resolve_device(name)
    # srun may show each task its own GPU only: then it is number 0 there.
    count = torch.cuda.device_count()
    if local_rank < count:
        return torch.device("cuda", local_rank)
    if count == 1:
        return torch.device("cuda", 0)
    raise UserError(f"local rank {local_rank} has no GPU: {count} are visible; ask for fewer workers or more GPUs")
