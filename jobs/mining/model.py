"""Loads what a worker needs of torch: the model on its device, checked against every map, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cam.available import check_reachable
from cam.names import parse_names
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.config import MineConfig
from jobs.mining.model_options import load_with_prompts
from jobs.mining.targets import TargetSource, target_source
from jobs.runs.request import ResolvedSettings
from jobs.shards.urls import Shard
from promptsg_core.model import PromptSG
from promptsg_core.precision import resolve_device, resolve_precision
from promptsg_core.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that is ready to mine, and its target.

    `resolved` records the precision that `auto` became on this machine, and the model's configuration.
    """

    model: PromptSG
    targets: TargetSource
    resolved: ResolvedSettings

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.image_encoder.proj.device


def load(
    config: MineConfig, overrides: Sequence[str], shards: Sequence[Shard], environment: Environment | None = None
) -> LoadedModel:
    """Loads the model and checks that every map is possible, before anything is written.

    `overrides` are KEY VALUE words. Raises UserError, ModelError or CamError, each naming what does not fit.
    """
    device = device_of_rank(config.device, environment or Environment())
    precision = resolve_precision(config.precision, device)
    model = load_with_prompts(
        config.checkpoint,
        config.prompts,
        device=str(device),
        precision=precision,
        settings=read_settings(config.model_settings, overrides),
        prompt_mode=config.prompt_mode,
        neck_feat=config.neck_feat,
        reweight=config.reweight,
    )
    check_reachable(model, parse_names(config.maps), config.target, config.gradcam_plus_plus)
    return LoadedModel(
        model=model,
        targets=target_source(config, shards, model),
        resolved=ResolvedSettings(precision=precision, model=model.config.to_dict()),
    )


def device_of_rank(name: str, environment: Environment, gpus: int | None = None) -> torch.device:
    """The device of a rank: where `name` is `auto` or `cuda`, each rank has its own GPU. All ranks may share the CPU.

    `gpus` is the number of visible GPUs, by default as torch counts them. Raises UserError, on every rank and before
    any work, where a node has fewer GPUs than ranks.
    """
    count = torch.cuda.device_count() if gpus is None else gpus
    ranks = environment.local_world_size
    shares_cpu = name == "auto" and count == 0
    if ranks == 1 or shares_cpu or name not in ("auto", "cuda"):
        return resolve_device(name)
    if environment.launcher == "srun" and count == 1:  # srun may show each task only its own GPU, as number 0
        return torch.device("cuda", 0)
    if ranks > count:
        raise UserError(
            f"{ranks} workers were started on this node, but {count} GPUs are visible: start at most {count}"
        )
    return torch.device("cuda", environment.local_rank)
