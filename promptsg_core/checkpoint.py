"""Models from checkpoints: recognised by their keys, loaded strictly or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from promptsg_core.config import FieldValue, ModelConfig
from promptsg_core.errors import CheckpointError
from promptsg_core.families.recognise import family_of, to_family_h
from promptsg_core.infer import infer_config
from promptsg_core.model import PromptSG
from promptsg_core.phrases import first_few
from promptsg_core.precision import PRECISIONS, resolve_device, resolve_precision
from promptsg_core.settings import Settings, read_settings
from promptsg_core.state_dict import read_metadata, read_state_dict


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds. `parameters` counts the weights that the model uses; `dtype` names their types."""

    path: Path
    family: str
    config: ModelConfig
    parameters: int
    dtype: str


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    settings: Settings | str | Path | None = None,
    **given: FieldValue,
) -> PromptSG:
    """A frozen PromptSG in eval mode from a checkpoint of family H or E. Needs no GPU, no download, no class count.

    `settings`, or the path of a YAML file in the training code's own keys, and `given`, fields of ModelConfig such as
    prompt_mode= or neck_feat=, state what shapes do not tell. Raises CheckpointError or ModelError, naming the file.

    >>> from promptsg_core import load_model
    >>> model = load_model("ViT-B-16_60.pth", device="cpu", precision="fp32", neck_feat="after")
    >>> features = model(images)  # (B, 3, H, W) uint8 RGB
    >>> features.shape == (len(images), model.config.feature_dim)
    True
    >>> model.get_attention_map(images).shape == (len(images), *model.grid)
    True
    """
    path = Path(path)
    target = resolve_device(device)
    dtype = PRECISIONS[resolve_precision(precision, target)]
    checkpoint = _understand(path, settings, given)
    model = _filled_model(checkpoint, path).requires_grad_(False).eval()
    return model.float().convert(dtype).to(target)


def inspect_checkpoint(
    path: str | Path, *, settings: Settings | str | Path | None = None, **given: FieldValue
) -> CheckpointInfo:
    """Family, configuration and size of a checkpoint, after the same checks as `load_model`, with the same errors."""
    path = Path(path)
    checkpoint = _understand(path, settings, given)
    model = _filled_model(checkpoint, path)
    dtypes = {str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values() if t.is_floating_point()}
    return CheckpointInfo(
        path=path,
        family=checkpoint.family,
        config=checkpoint.config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=", ".join(sorted(dtypes)),
    )


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    """A checkpoint that was recognised; `state` has family H's names."""

    family: str
    config: ModelConfig
    state: dict[str, Tensor]


def _understand(path: Path, settings: Settings | str | Path | None, given: Mapping[str, FieldValue]) -> _Checkpoint:
    """Raises CheckpointError and ModelError; the former name the file."""
    if not isinstance(settings, Settings):
        settings = read_settings(settings)
    state = read_state_dict(path)
    stated = {**settings.model, **{name: value for name, value in given.items() if value is not None}}
    try:
        family = family_of(state)
        state = to_family_h(state, family)
        config = infer_config(state, {**read_metadata(path), **stated})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return _Checkpoint(family=family, config=config, state=state)


def _filled_model(checkpoint: _Checkpoint, path: Path) -> PromptSG:
    """The model with every tensor in its place.

    Raises CheckpointError for a key too many, a missing one, another shape, and a value that is not finite.
    """
    with torch.device("meta"):
        model = PromptSG(checkpoint.config)
    wanted = model.state_dict()
    # Older files lack this counter, which evaluation never reads.
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("num_batches_tracked")}
    state = {**counters, **checkpoint.state}
    if problems := _misfits(wanted, state):
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(problems)}")
    if bad := [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(f"{path}: NaN or infinite values in {first_few(bad)}")
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """In words, what of a state dict does not fit the wanted names and shapes."""
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {first_few(missing)}")
    if unexpected := sorted(state.keys() - wanted.keys()):
        problems.append(f"unexpected {first_few(unexpected)}")
    wrong = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if wrong:
        problems.append(f"wrong shapes: {first_few(wrong)}")
    return problems
