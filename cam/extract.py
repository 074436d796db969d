"""The engine: one forward pass, one `autograd.grad`, every requested map.

Legend: B batch, M patches, C classes, F feature length, H heads, h w grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cam.available import check_reachable, default_maps
from cam.names import MapName, parse_names
from cam.precision import at_least_float32, scaled_gradients, score_scale
from cam.protocol import CameraChoice, Captions, E, HeadLike, TappedModel
from cam.relevance import chefer, legrad, rollout
from cam.targets import Target, predicted_class, resolve_target, target_of_output
from cam.weighing import gradient_maps


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Results on the model's device, all detached.

    maps: name -> (B, h, w) float32, raw: neither normalised nor resized. score (B,) float32: the value that was
    differentiated. predicted (B,) int64 and probability (B,) float32: the class with the largest logit and its softmax,
    -1 and NaN for a model without classes.
    features (B, F) float32, not normalised. attention_heads (B, H, h, w) float32: the heads of the model's own
    attention, of PromptSG's MIM each summing to 1.
    """

    maps: dict[str, Tensor]
    score: Tensor
    predicted: Tensor
    probability: Tensor
    features: Tensor
    attention_heads: Tensor


def extract_maps(
    model: TappedModel[E],
    images: Tensor,
    maps: Sequence[str] | None = None,
    target: str | Target | int | Tensor = "predicted",
    gradcam_plus_plus: str = "rectified",
    *,
    head: str | None = None,
    cameras: CameraChoice | None = None,
    captions: Captions | None = None,
) -> Extraction:
    """(B, 3, H, W) images -> every named map, from one forward pass and at most one backward pass.

    Without `maps` these are the model's own default maps, see `cam.available.default_maps`.
    `rollout` and `chefer` need the weights of every block: where one of them is requested, a second, whole pass is run.
    `legrad` needs one more, in which every block is read out.
    `target` is a name, a Target, a class number for all images, or (B,) class numbers. `head` names the head whose
    score is explained, where a model has several. `cameras` are for a model with camera embeddings. `captions`, for a
    model that takes a text of each image's own, are B texts, or None for an image without one. A model in training mode
    is evaluated and put back, also when something raises. No hook and no `.grad` is left on it.

    Raises CamError, before any work, on an unknown name or target and on a layer that the target does not reach.

    >>> from cam import extract_maps
    >>> found = extract_maps(model, images, maps=("mim_attention", "gradcam++/mim"), target="predicted")
    >>> found.maps["gradcam++/mim"].shape == (len(images), *model.grid)
    True
    >>> tuple(extract_maps(model, images).maps) == model.config.default_maps
    True
    >>> extract_maps(model, images, maps=["gradcam/mimm"])
    Traceback (most recent call last):
        ...
    cam.errors.CamError: unknown map 'gradcam/mimm'; did you mean gradcam/mim? ...
    """
    names = parse_names(default_maps(model) if maps is None else maps)
    chosen = resolve_target(target)
    check_reachable(model, names, chosen, gradcam_plus_plus, head)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        images = images.clone() if images.is_inference() else images
        return _extract(model, images, names, chosen, gradcam_plus_plus, head, cameras, captions)


@contextlib.contextmanager
def evaluating(model: TappedModel[E]) -> Iterator[None]:
    """Evaluation mode for a while: batch norms and dropout would otherwise mix the rows of a batch."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _extract(
    model: TappedModel[E],
    images: Tensor,
    names: Sequence[MapName],
    target: Target,
    gradcam_plus_plus: str,
    head: str | None,
    cameras: CameraChoice | None,
    captions: Captions | None,
) -> Extraction:
    texts = {} if captions is None else {"captions": captions}  # other models need not have the parameter
    layers = tuple(dict.fromkeys(name.layer for name in names if name.layer is not None))
    native = tuple(str(name) for name in names if name.is_native)
    encoded = model.encode(images, cameras, **texts)
    out = model.head(encoded, taps=layers, head=head, native=native)
    score = target.score(out)
    found = gradient_maps(names, score, {layer: out.taps[layer] for layer in layers}, gradcam_plus_plus)
    found |= _native_maps(out, names) | _relevance_maps(model, images, names, target, head, cameras, texts)
    with torch.no_grad():
        predicted, probability = predicted_class(out.logits)
    if (name := MapName("legrad")) in names:
        blocks = model.each_block(images, encoded, cameras, head, **texts)
        found[name] = legrad(_block_gradients(blocks, target_of_output(target, out)))
    return Extraction(
        maps={str(name): torch.unflatten(found[name], 1, model.grid) for name in names},
        score=score.detach().float(),
        predicted=predicted,
        probability=probability,
        features=out.features.detach().float(),
        attention_heads=torch.unflatten(out.attention_heads.detach().float(), 2, model.grid),
    )


def _native_maps(out: HeadLike, names: Sequence[MapName]) -> dict[MapName, Tensor]:
    """name -> (B, M), float32 unless the model is wider, of the maps that the model computes itself."""
    return {name: at_least_float32(out.native_maps[str(name)].detach()) for name in names if name.is_native}


def _relevance_maps(
    model: TappedModel[E],
    images: Tensor,
    names: Sequence[MapName],
    target: Target,
    head: str | None,
    cameras: CameraChoice | None,
    texts: Mapping[str, Captions],
) -> dict[MapName, Tensor]:
    """name -> (B, M) of `rollout` and `chefer`, as far as they are requested."""
    found: dict[MapName, Tensor] = {}
    methods = {name.method: name for name in names if name.method in ("rollout", "chefer")}
    if not methods:
        return found
    out, weights = model.trace(images, gradient="chefer" in methods, cameras=cameras, head=head, **texts)
    if "rollout" in methods:
        found[methods["rollout"]] = rollout(weights)
    if "chefer" in methods:
        scale = score_scale(weights[0])
        gradients = scaled_gradients(target.score(out), weights, scale)
        found[methods["chefer"]] = chefer(weights, [at_least_float32(gradient) / scale for gradient in gradients])
    return found


def _block_gradients(blocks: Iterable[tuple[HeadLike, Tensor]], target: Target) -> Iterator[Tensor]:
    """Of each block, the (B, H, N, N) gradient of the score that is read out after it by its attention weights."""
    for out, weights in blocks:
        scale = score_scale(weights)
        (gradient,) = scaled_gradients(target.score(out), [weights], scale)
        yield at_least_float32(gradient) / scale
