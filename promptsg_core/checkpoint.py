"""Models from checkpoints: recognised by their keys, loaded strictly or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from promptsg_core.config import FamilyConfig, FieldValue
from promptsg_core.errors import CheckpointError, ModelError
from promptsg_core.families.family import Family, ReadTensors, Stated
from promptsg_core.families.registry import family_of
from promptsg_core.files.envelope import Weights, read_weights
from promptsg_core.files.metadata import read_metadata
from promptsg_core.model import AnyModel
from promptsg_core.phrases import first_few, printable
from promptsg_core.precision import PRECISIONS, compute_float32, resolve_device, resolve_precision
from promptsg_core.settings import Settings, read_settings

logger = logging.getLogger(__name__)

# Fields of a file's own metadata that a user may choose anew: they say what is read out, not what was trained.
_CHOSEN_IN_USE = frozenset({"neck_feat"})
_CHECKED_AT_ONCE = 2**24  # numbers, when looking for those that are not finite


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds. `parameters` counts the weights that the model uses; `dtype` names their types.

    `weights_key` is the path of keys below which the state dict was found, "" at the top of the file. `other_weights`
    are further state dicts in it, such as an average, which `weights_key=` would take. `stated` are the fields of the
    configuration that the user or the file itself states.
    """

    path: Path
    family: str
    config: FamilyConfig
    parameters: int
    dtype: str
    weights_key: str = ""
    other_weights: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    settings: Settings | str | Path | None = None,
    weights_key: str | None = None,
    **given: FieldValue,
) -> AnyModel:
    """A frozen model in eval mode from a checkpoint of any known family. Needs no GPU, no download, no class count.

    `settings`, or the path of a YAML file in the training code's own keys, and `given`, fields of the family's
    configuration such as neck_feat=, sie_coe= or prompt_mode=, state what shapes do not tell. `weights_key` takes
    another state dict of the file, such as "state_dict_ema"; that there is one is logged as a warning.

    `precision` is auto, bf16, fp16, fp32 or tf32: fp16 and bf16 are the towers' type, while norms with running
    statistics, classifiers and all arithmetic of maps are float32. Loading sets torch's switches of the whole process
    so that float32 is computed without TF32, unless the precision is tf32; `promptsg_core.precision` says which.

    Raises CheckpointError or ModelError, naming the file.

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
    resolved = resolve_precision(precision, target)
    compute_float32(resolved)
    with torch.inference_mode(False):  # tensors that are made in it could never be part of a gradient
        checkpoint = _understand(path, settings, given, weights_key)
        if checkpoint.weights.others:
            taken, others = checkpoint.weights.taken or "the weights at the top", checkpoint.weights.others
            logger.warning("%s: took %s; it also has %s, which --weights-key takes", path, taken, first_few(others))
        model = _filled_model(checkpoint, path).requires_grad_(False).eval()
        model.made_ready()
        return model.float().convert(PRECISIONS[resolved]).to(target)


def inspect_checkpoint(
    path: str | Path,
    *,
    settings: Settings | str | Path | None = None,
    weights_key: str | None = None,
    **given: FieldValue,
) -> CheckpointInfo:
    """Family, configuration and size of a checkpoint, after the same checks as `load_model`, with the same errors."""
    path = Path(path)
    checkpoint = _understand(path, settings, given, weights_key)
    model = _filled_model(checkpoint, path)
    dtypes = {str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values() if t.is_floating_point()}
    return CheckpointInfo(
        path=path,
        family=checkpoint.family.name,
        config=checkpoint.config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=", ".join(sorted(dtypes)),
        weights_key=checkpoint.weights.taken,
        other_weights=checkpoint.weights.others,
        stated=checkpoint.stated,
    )


@dataclass(frozen=True)
class RecognisedFile:
    """The family of a checkpoint, and the names of its tensors."""

    family: Family
    tensors: frozenset[str]


def recognise_file(path: Path, weights_key: str | None = None) -> RecognisedFile:
    """A checkpoint by its keys alone. Raises CheckpointError naming the file."""
    weights = read_weights(path, weights_key)
    try:
        return RecognisedFile(family_of(weights.tensors), frozenset(weights.tensors))
    except ModelError as error:
        raise type(error)(f"{printable(str(path))}: {printable(str(error))}") from error


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    """A checkpoint that was recognised; `state` has the model's names, `weights` the file's own."""

    family: Family
    config: FamilyConfig
    state: dict[str, Tensor]
    weights: Weights
    stated: frozenset[str]


def _understand(
    path: Path, settings: Settings | str | Path | None, given: Mapping[str, FieldValue], weights_key: str | None
) -> _Checkpoint:
    """Raises CheckpointError and ModelError, which name the file."""
    if not isinstance(settings, Settings):
        settings = read_settings(settings)
    weights = read_weights(path, weights_key)
    given = {name: value for name, value in given.items() if value is not None}
    try:
        own = read_metadata(path)
        family = family_of(weights.tensors)
        family.config.check_names({**given, **settings.words})
        # A file of settings is of a whole training: what it says of other families' parts concerns nothing here.
        known = {name: value for name, value in settings.model.items() if family.config.has(name)}
        _refuse_other_than_metadata(own, {**known, **given})
        stated = Stated(fields={**own, **known, **given}, modes=settings.stated_modes, own=bool(own))
        read = family.read(weights.tensors, stated)
        _check_read(family, read)
    except ModelError as error:
        raise type(error)(f"{printable(str(path))}: {printable(str(error))}") from error
    return _Checkpoint(
        family=family, config=read.config, state=read.tensors, weights=weights, stated=frozenset(stated.fields)
    )


def _refuse_other_than_metadata(own: Mapping[str, FieldValue], stated: Mapping[str, FieldValue]) -> None:
    """Raises ModelError, naming both values, where what the file says of itself is contradicted.

    A choice that is made when a model is used, such as the neck, is the user's.
    """
    for name, value in stated.items():
        if name in own and name not in _CHOSEN_IN_USE and not _same(own[name], value):
            raise ModelError(
                f"{name} is {_plain(value)} in the settings, but the file says of itself that it was trained with "
                f"{_plain(own[name])}: leave the setting out"
            )


def _same(one: FieldValue, other: FieldValue) -> bool:
    return _plain(one) == _plain(other)


def _plain(value: FieldValue) -> FieldValue:
    """A list as a tuple: settings and metadata have either."""
    return tuple(value) if isinstance(value, list) else value


def _check_read(family: Family, read: object) -> None:
    """Raises ModelError where a family, which may be of another package, gives another type than it says."""
    if not isinstance(read, ReadTensors):
        raise ModelError(f"the family {family.name} read the file as {type(read).__name__}, expected ReadTensors")
    if type(read.config) is not family.config:
        raise ModelError(
            f"the family {family.name} read the file as {type(read.config).__name__}, but its configuration is "
            f"{family.config.__name__}: its runs could not be read back"
        )


def _filled_model(checkpoint: _Checkpoint, path: Path) -> AnyModel:
    """The model with every tensor in its place.

    Raises CheckpointError for a key too many, a missing one, another shape, and a value that is not finite.
    """
    with torch.device("meta"):
        model = checkpoint.family.build(checkpoint.config)  # every size is that of a tensor in the file
    wanted = model.state_dict()
    # Older files lack this counter, which evaluation never reads.
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("num_batches_tracked")}
    state = {**counters, **checkpoint.state}
    if problems := _misfits(wanted, state):
        raise CheckpointError(printable(f"{path}: does not fit the model: {'; '.join(problems)}"))
    if bad := [key for key, tensor in state.items() if not _is_finite(tensor)]:
        raise CheckpointError(printable(f"{path}: NaN or infinite values in {first_few(bad)}"))
    try:
        model.check()
    except ModelError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite, in pieces: a mapped tensor may be larger than the free memory."""
    pieces = torch.split(tensor.reshape(-1), _CHECKED_AT_ONCE)
    return not tensor.is_floating_point() or all(bool(torch.isfinite(piece).all()) for piece in pieces)


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
    whole = [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')}"
        for key, tensor in wanted.items()
        if key in state and tensor.is_floating_point() and not state[key].is_floating_point()
    ]
    if whole:
        problems.append(f"not floating-point numbers: {first_few(whole)}")
    return problems
