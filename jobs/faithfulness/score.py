"""The model behind a run, loaded again, and the score that the run's maps explain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.faithfulness.plan import Config, Explained, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.runs.run import Run
    from jobs.shards.random_access import Row
    from promptsg_core.model import PromptSG

logger = logging.getLogger(__name__)
# What the training code's settings decide and no tensor tells; the run says how it was mined.
_STATED = ("image_size", "stride", "vision_heads", "text_heads", "mim_heads", "reweight", "prompt_mode", "neck_feat",
           "mean", "std")  # fmt: skip


def check_checkpoint(run: Run, config: Config) -> str:
    """The checkpoint's SHA-256. Raises UserError, naming both, unless it is that which the run was mined with."""
    from jobs.atomic import sha256_of

    if not config.checkpoint.is_file():
        raise UserError(f"the checkpoint {config.checkpoint} does not exist or is not a file")
    mined, here = run.manifest.asked.checkpoint_sha256, sha256_of(config.checkpoint)
    if mined != here and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a checkpoint of SHA-256 {mined}, but {config.checkpoint} has {here}: "
            "its scores are not those that the maps explain; give the same, or --any-checkpoint to go on"
        )
    return here


def load(run: Run, config: Config) -> tuple[PromptSG, str]:
    """The model with the settings that the run was mined with, and its precision. Raises what `load_model` raises."""
    from promptsg_core.checkpoint import load_model
    from promptsg_core.config import ModelConfig
    from promptsg_core.precision import resolve_device, resolve_precision
    from promptsg_core.tokenise import make_prompt

    manifest = run.manifest
    mined = ModelConfig.fields_from(manifest.resolved.model)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision or manifest.resolved.precision or "auto", device)
    stated = {name: mined[name] for name in _STATED if name in mined}
    model = load_model(config.checkpoint, device=str(device), precision=precision, **stated)
    model.prompts.update({name: make_prompt(text) for name, text in manifest.asked.prompts.items()})
    return model, precision


def explain(run: Run, config: Config, model: PromptSG) -> Explained:
    """The score behind the run's target. Raises UserError where what it needs was not given or is not the run's."""
    import torch

    from cam.faithfulness import class_score, cosine_score
    from cam.targets import FEATURE, class_target, similarity_target

    target = run.manifest.asked.target
    if target in ("predicted", "label"):
        labels = _labels(run, config, model) if target == "label" else {}

        def by_class(rows: Sequence[Row], images: Tensor) -> Subject:
            classes = torch.tensor([labels[row["pid"]] if labels else row["predicted"] for row in rows])
            return Subject(class_score(model, classes), lambda some: class_target(classes[some], target))

        whose = "predicted class" if target == "predicted" else "label's class"
        return Explained(scores=("probability", "logit"), title=f"probability of the {whose}", subject=by_class)
    if config.reference is not None and target == "similarity":
        references = _references(run, config, model)

        def by_reference(rows: Sequence[Row], images: Tensor) -> Subject:
            wanted = references(rows)
            return Subject(cosine_score(model, wanted), lambda some: similarity_target(wanted[some]))

        return Explained(scores=("cosine",), title="cosine to the reference feature", subject=by_reference)
    if target == "similarity" and config.sanity:
        raise UserError("the target similarity needs --reference RUN for the sanity check, or --no-sanity")

    def by_itself(rows: Sequence[Row], images: Tensor) -> Subject:
        return Subject(cosine_score(model, model(images)), lambda some: FEATURE)

    return Explained(scores=("cosine",), title="cosine to the image's own feature", subject=by_itself)


def _labels(run: Run, config: Config, model: PromptSG) -> Mapping[int, int]:
    """pid -> class, as when the run was mined."""
    from jobs.atomic import sha256_of
    from jobs.mining.labels import labels_for

    mined = run.manifest.asked.label_map
    if mined != (sha256_of(config.label_map) if config.label_map is not None else None):
        what = "without one" if mined is None else f"with one of SHA-256 {mined}"
        raise UserError(f"--label-map is {config.label_map}, but {run.layout.root} was mined {what}: give the same")
    shards = list(run.manifest.shards)
    if config.shards_root is not None:
        root = config.shards_root.rstrip("/")
        shards = [replace(shard, url=f"{root}/{shard.url.rsplit('/', 1)[-1]}") for shard in shards]
    return labels_for(shards, config.label_map, model.config.num_classes)


def _references(run: Run, config: Config, model: PromptSG) -> Callable[[Sequence[Row]], Tensor]:
    """(B, D) reference features of rows, as when the run was mined."""
    import torch

    from jobs.mining.references import References
    from jobs.runs.run import open_run
    from jobs.shards.samples import Sample

    asked = run.manifest.asked
    assert config.reference is not None
    here = open_run(config.reference).manifest.fingerprint
    if here != asked.reference and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a reference run of fingerprint {asked.reference}, "
            f"but {config.reference} has {here}: give the same"
        )
    references = References(config.reference, asked.reference_split)

    def of(rows: Sequence[Row]) -> Tensor:
        samples = [Sample(**{name: row[name] for name in ("key", "tar_index", "pid", "split")}) for row in rows]
        return torch.from_numpy(references.of(samples, model.config.feature_dim)[0])

    return of
