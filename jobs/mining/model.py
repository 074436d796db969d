"""Loads what a worker needs of torch: the model on its device, checked against every map, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cam.extract import check_reachable
from cam.names import parse_names
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.config import MineConfig
from jobs.mining.targets import TargetSource, target_source
from jobs.runs.manifest import ResolvedSettings
from jobs.shards.urls import Shard
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
    resolved: ResolvedSettings


def load(
    config: MineConfig, overrides: Sequence[str], shards: Sequence[Shard], environment: Environment | None = None
) -> Loaded:
    """Loads the model and checks that every map can be had, before anything is written.

    Raises UserError, ModelError or CamError, each naming what does not fit.
    """
    device = device_of_rank(config.device, environment or Environment())
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
    for prompt in prompts.values():
        model.prompt_composer.check(prompt)
    model.prompts.update(prompts)
    check_reachable(model, parse_names(config.maps), config.target, config.gradcam_plus_plus)
    targets = target_source(config, shards, model)
    return Loaded(
        model=model, targets=targets, resolved=ResolvedSettings(precision=precision, model=model.config.to_dict())
    )


def device_of_rank(name: str, environment: Environment, gpus: int | None = None) -> torch.device:
    """One GPU per rank where the device is `auto` or `cuda`; any number of ranks share the CPU.

    `gpus` is the number of visible GPUs, by default as torch counts them. Raises UserError, on every rank and before
    any work, where a node has fewer of them than ranks.
    """
    count = torch.cuda.device_count() if gpus is None else gpus
    ranks = environment.local_world_size
    if ranks == 1 or name not in ("auto", "cuda") or (name == "auto" and count == 0):
        return resolve_device(name)
    if environment.launcher == "srun" and count == 1:  # it may show each task its own GPU only, as number 0
        return torch.device("cuda", 0)
    if ranks > count:
        raise UserError(
            f"{ranks} workers were started on this node, but {count} GPUs are visible: start at most {count}"
        )
    return torch.device("cuda", environment.local_rank)
