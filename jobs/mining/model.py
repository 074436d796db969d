"""Loads what a worker needs of torch: the model on its device, checked against every map, and the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cam.available import check_reachable
from cam.names import parse_names
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.camera_rows.compared import ChosenRows
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource, OwnCameras, camera_source, one_for_all
from jobs.mining.config import MineConfig
from jobs.mining.found_labels import find_labels
from jobs.mining.labels import AUTO
from jobs.mining.limits.fp32_repeats import LOW_PRECISIONS, Fp32Repeats
from jobs.mining.limits.model_source import ModelSource
from jobs.mining.targets import LabelTarget, TargetSource, target_source
from jobs.phrases import counted
from jobs.progress import told
from jobs.runs.manifest import Manifest
from jobs.runs.request import LabelAgreement, ResolvedSettings
from jobs.shards.captions import require_captions
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel
from promptsg_core.precision import can_compute, device_kind, resolve_device, resolve_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that is ready to mine, its target, and the cameras of images where it has camera embeddings.

    `source` can load the model again. `resolved` records the precision that `auto` became on this machine, the model's
    configuration, and the label map if it was learned. `label_agreement` is what a check of the labels found, None
    where there was none.
    """

    model: AnyModel
    source: ModelSource
    targets: TargetSource
    resolved: ResolvedSettings
    cameras: CameraSource = NO_CAMERAS
    label_agreement: LabelAgreement | None = None

    @property
    def kind(self) -> str:
        """What its device is, for people."""
        return device_kind(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def fp32_repeats(self, manifest: Manifest) -> Fp32Repeats | None:
        """Does images again in fp32 whose numbers are not finite; None in a precision as wide as that."""
        if self.resolved.precision not in LOW_PRECISIONS:
            return None
        return Fp32Repeats(self.source, self.targets, self.cameras, manifest=manifest)

    def of_run(self, manifest: Manifest) -> LoadedModel:
        """With the labels that the run has, where they were learned: another worker may have been the first."""
        if manifest.resolved.label_map is None:
            return self
        return replace(self, targets=LabelTarget(manifest.resolved.label_map))


@told("loading the checkpoint")
def load(
    config: MineConfig,
    overrides: Sequence[str],
    shards: Sequence[Shard],
    environment: Environment | None = None,
    started: Manifest | None = None,
    *,
    any_camera: bool = False,
) -> LoadedModel:
    """Loads the model and checks that every map is possible, before anything is written.

    `overrides` are KEY VALUE words. `started` is the run that goes on: its precision and labels count. With
    `any_camera` images of a model with camera embeddings all get their mean, where the results do not matter.
    Raises UserError, ModelError or CamError, each naming what does not fit.
    """
    device = device_of_rank(config.device, environment or Environment())
    _make_current(device)
    precision = precision_on(device, config, started)
    source = ModelSource(config=config, overrides=tuple(overrides), device=device)
    model = source.load(precision)
    model.check_head(config.head)
    if config.target in ("predicted", "label") and model.class_problem:
        raise UserError(f"{config.checkpoint}: {model.class_problem}")
    looks = environment is None or environment.is_first
    cameras = one_for_all(model) if any_camera else camera_source(model, config.cameras, shards, looks=looks)
    check_reachable(model, parse_names(config.maps), config.target, config.gradcam_plus_plus, config.head)
    _refuse_heads_of_nothing(config, model)
    if started is None and (needing := model.needs_captions(config.target, config.maps)):
        # With several prompts the question is which of them is meant, and the model asks it.
        require_captions(shards, needing, model.text_problem if model.prompts else None)
    found = find_labels(config, shards, model, started, cameras) if config.target == "label" else None
    resolved = ResolvedSettings(precision=precision, model=model.config.to_dict())
    if found is not None and config.label_map == AUTO:
        resolved = resolved.model_copy(update={"label_map": dict(found.labels)})
    if isinstance(cameras, OwnCameras) and cameras.mapping is not None:
        resolved = resolved.model_copy(update={"camera_map": dict(cameras.mapping)})
    rows = ChosenRows(camera=config.camera, mapping=resolved.camera_map, trained_on=config.trained_on)
    return LoadedModel(
        model=model,
        source=source,
        targets=target_source(config, model, None if found is None else found.labels, None if any_camera else rows),
        resolved=resolved,
        cameras=cameras,
        label_agreement=None if found is None else found.agreement,
    )


def _make_current(device: torch.device) -> None:
    """Has this process compute on its own GPU where no device is named: pinning memory and capturing a graph would else
    take memory of the node's first GPU, for each rank. A GPU without a number is the current one already.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _refuse_heads_of_nothing(config: MineConfig, model: AnyModel) -> None:
    if config.attention_heads == "all" and not model.has_attention:
        raise UserError(
            f"--attention-heads is all, but {type(model).__name__} has no attention whose heads could be stored: "
            "leave it out"
        )


def precision_on(device: torch.device, config: MineConfig, started: Manifest | None) -> str:
    """The precision to compute in: what the configuration states, or what `auto` became where the run was started.

    Raises UserError where this device cannot compute in that.
    """
    own = resolve_precision(config.precision, device)
    of_run = None if started is None else started.resolved.precision
    if config.precision != "auto" or started is None or of_run is None or of_run == own:
        return own
    there = started.device or "a machine of another kind"
    if not can_compute(of_run, device):
        raise UserError(
            f"{config.output} was started on {there}, where precision auto became {of_run}, and {device_kind(device)} "
            f"cannot compute in {of_run}: go on with it on nodes of the first kind, or mine into another --output with "
            "--precision fp16 or fp32, which all nodes can compute"
        )
    logger.info("precision auto is %s, as on %s, where %s was started; by itself it would be %s on %s",
                of_run, there, config.output, own, device_kind(device))  # fmt: skip
    return of_run


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
            f"{ranks} workers were started on this node, but {counted(count, 'GPU is', 'GPUs are')} visible: start "
            f"at most {count}"
        )
    return torch.device("cuda", environment.local_rank)
