"""CLIP-ReID ViT (Li, Sun and Li 2023, arXiv:2211.13977), with or without learned prompts, and its baseline.

CLS alone is read after the last block, so a score reaches the patches through that block's attention and nowhere else.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, T text width, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, camera_rows
from promptsg_core.config import FamilyConfig, FieldValue, PatchConfig, check_heads
from promptsg_core.errors import CheckpointError, ModelError
from promptsg_core.families.family import ReadTensors, Signature, Stated
from promptsg_core.families.published import camera_rows_in_words
from promptsg_core.families.shapes import (
    camera_rows_of,
    count_of,
    heads_of,
    layout_of,
    refuse_contradictions,
    shape_of,
    text_heads_of,
)
from promptsg_core.model import AnyModel, ReidModel
from promptsg_core.outputs import CLS_ATTENTION, PATCH_TEXT, HeadOutput
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer, Taps, unseen_layers
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.text import TextSizes, TextTower
from promptsg_core.towers.vision import VisionSizes, VisionTower

_BEGINNING = 5  # tokens before the learned words: the start, "A photo of a"
_AT_ONCE = 64  # classes, when their texts are encoded


@dataclass(frozen=True, kw_only=True)
class ClipReidConfig(PatchConfig):
    """Everything that fixes the computation.

    `text_width` is 0 without learned prompts, of which `prompt_length` words stand in a text of `context_length`
    tokens. `camera_rows` is 0 without camera embeddings, and `sie_coe` what they are multiplied by. `stage_1` says that
    only the prompts were trained, and no classifier.
    """

    recorded_as: ClassVar[str | None] = "clipreid"
    assumed: ClassVar[Mapping[str, str]] = {
        "sie_coe": "camera coefficient",
        "neck_feat": "neck",
        "mean": "mean",
        "std": "std",
    }
    default_maps: ClassVar[tuple[str, ...]] = ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
    stated: ClassVar[tuple[str, ...]] = ("image_size", "stride", "vision_heads", "text_heads", "sie_camera", "sie_view")

    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    embed_dim: int = 512
    text_width: int = 0
    text_layers: int = 0
    text_heads: int = 8
    context_length: int = 77
    prompt_length: int = 4
    camera_rows: int = 0
    sie_camera: bool = True
    sie_view: bool = False
    sie_coe: float = 1.0
    stage_1: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads("vision_width", self.vision_width, "vision_heads", self.vision_heads)
        check_heads("text_width", self.text_width, "text_heads", self.text_heads)
        if self.vision_layers < 1:
            raise ModelError("the image tower has no blocks")

    @property
    def uses_cameras(self) -> bool:
        """Whether a row of the camera embedding is added to CLS."""
        return self.camera_rows > 0 and self.sie_camera

    @property
    def camera_coefficient(self) -> float | None:
        """`sie_coe`, where cameras are used."""
        return self.sie_coe if self.uses_cameras else None

    @property
    def without_effect(self) -> frozenset[str]:
        """The coefficient of cameras, where none are used."""
        return frozenset() if self.uses_cameras else frozenset({"sie_coe"})

    @property
    def heads(self) -> tuple[str, ...]:
        """The classifier of CLS's projection, that of CLS, and the sum of both, which is what was trained."""
        return ("proj", "cls", "both")

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature: CLS and its projection, 1280 for ViT-B/16."""
        return self.vision_width + self.embed_dim

    @property
    def facts(self) -> Mapping[str, str]:
        """The towers, the prompts and the cameras, for people."""
        prompts = (
            f"{self.prompt_length} learned words for each class, width {self.text_width}, {self.text_layers} blocks"
        )
        cameras = f"{camera_rows_in_words(self.camera_rows)}, coefficient {self.sie_coe:g}"
        return {
            "image tower": f"width {self.vision_width}, {self.vision_layers} blocks, {self.vision_heads} heads, "
            f"joint width {self.embed_dim}",
            "prompts": prompts if self.text_width else "none",
            "cameras": cameras if self.uses_cameras else f"{cameras}, not used" if self.camera_rows else "none",
            **({"stage": "1: only the prompts are trained, and no class can be predicted"} if self.stage_1 else {}),
        }


class PromptLearner(nn.Module):
    """The learned words of each class, between the embeddings of a fixed beginning and a fixed end."""

    def __init__(self, config: ClipReidConfig) -> None:
        super().__init__()
        words, width = config.prompt_length, config.text_width
        self.cls_ctx = nn.Parameter(torch.randn(config.num_classes, words, width) * 0.02)
        after = config.context_length - words - _BEGINNING
        self.token_prefix = nn.Parameter(torch.randn(1, _BEGINNING, width) * 0.02)
        self.token_suffix = nn.Parameter(torch.randn(1, after, width) * 0.02)

    @property
    def end(self) -> int:
        """The position of EOT: after it the padding repeats one embedding to the end."""
        suffix = self.token_suffix[0]
        differing = (suffix != suffix[-1]).any(dim=1).nonzero()
        before_padding = 0 if not len(differing) else int(differing[-1]) + 1
        return self.token_prefix.shape[1] + self.cls_ctx.shape[1] - 1 + before_padding

    def texts(self, classes: slice) -> Tensor:
        """The (c, T+1, D) embeddings of some classes' texts, up to EOT; the tower is causal, so no more are needed."""
        words = self.cls_ctx[classes]
        prefix, suffix = (around.expand(len(words), -1, -1) for around in (self.token_prefix, self.token_suffix))
        return torch.cat([prefix, words, suffix], dim=1)[:, : self.end + 1]


@dataclass(frozen=True, kw_only=True)
class ClipReidEncoded:
    """Tokens (B, N, D) before the last block. Nothing here carries a gradient."""

    tokens: Tensor


class ClipReid(ReidModel[ClipReidConfig, ClipReidEncoded]):
    """CLIP-ReID for inference; submodules carry the names of its checkpoints."""

    def __init__(self, config: ClipReidConfig) -> None:
        super().__init__(config)
        self.image_encoder = VisionTower(
            VisionSizes(
                image_size=config.image_size,
                patch_size=config.patch_size,
                stride=config.stride,
                width=config.vision_width,
                layers=config.vision_layers,
                heads=config.vision_heads,
                embed_dim=config.embed_dim,
            )
        )
        self.bottleneck = nn.BatchNorm1d(config.vision_width)
        self.bottleneck_proj = nn.BatchNorm1d(config.embed_dim)
        self.classifier = nn.Linear(config.vision_width, config.num_classes, bias=False)
        self.classifier_proj = nn.Linear(config.embed_dim, config.num_classes, bias=False)
        if config.camera_rows:
            self.cv_embed = nn.Parameter(torch.randn(config.camera_rows, config.vision_width) * 0.02)
        if config.text_width:
            self.prompt_learner = PromptLearner(config)
            self.text_encoder = TextTower(
                TextSizes(
                    width=config.text_width,
                    layers=config.text_layers,
                    heads=config.text_heads,
                    context_length=config.context_length,
                    embed_dim=config.embed_dim,
                )
            )
        self.register_buffer("_texts", None, persistent=False)  # (C, E), the features of all classes' texts

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The image tower. The texts are encoded once, in float32."""
        return (self.image_encoder,)

    @property
    def camera_rows(self) -> int:
        """Rows of the camera embedding; 0 where it is not used."""
        return self.config.camera_rows if self.config.uses_cameras else 0

    @property
    def layers(self) -> Mapping[str, Layer]:
        """`vit_norm` alone: no score sees a patch after the last attention. After stage 1 no logits come of it."""
        last = f"image_encoder.transformer.resblocks.{self.config.vision_layers - 1}"
        outputs = {"features"} if self.config.stage_1 else {"logits", "features"}
        outputs |= {"text"} if self.config.text_width else set()
        modules = ("image_encoder", "image_encoder.transformer", last, f"{last}.ln_1")
        return {"vit_norm": Layer(outputs=frozenset(outputs), modules=modules), **unseen_layers()}

    @property
    def native_maps(self) -> list[str]:
        """CLS's attention, and the likeness of each patch to the text of the predicted class."""
        return [CLS_ATTENTION, *([PATCH_TEXT] if self.config.text_width else [])]

    @property
    def class_problem(self) -> str | None:
        """Why no class can be explained."""
        if not self.config.stage_1:
            return None
        others = "feature, similarity or text" if self.config.text_width else "feature or similarity"
        return f"this is a checkpoint of stage 1, whose classifiers were never trained: take the target {others}"

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The texts keep their weights: no way from the patches to a score meets them."""
        head = ("bottleneck.", "bottleneck_proj.", "classifier.", "classifier_proj.")
        return {"head": head, "head and tower": (*head, "image_encoder.", "cv_embed")}

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Raises ModelError for any text: the file has no token embedding, only the words that were learned."""
        if prompts:
            raise ModelError(
                "a prompt was given, and CLIP-ReID checkpoints hold no token embedding to read it with: the target "
                "text and the map patch_text use the prompts that were learned for the classes"
            )

    @torch.no_grad()
    def made_ready(self) -> None:
        """Encodes the texts of all classes once."""
        if not self.config.text_width:
            return
        encode = self.text_encoder.float()
        learner = self.prompt_learner.float()
        parts = [slice(start, start + _AT_ONCE) for start in range(0, self.config.num_classes, _AT_ONCE)]
        self._texts = torch.cat([encode(learner.texts(part), learner.end) for part in parts])

    @torch.no_grad()
    def encode(
        self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> ClipReidEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> all blocks but the last, without gradient.

        Raises ModelError where the model has camera embeddings and no cameras are given, and the other way round, and
        where captions are given.
        """
        self.refuse_captions(captions)
        on_cls = self._camera(cameras, len(images))
        return ClipReidEncoded(tokens=self.image_encoder.before_last(self.prepare(images), on_cls))

    def _camera(self, cameras: Cameras | None, count: int) -> Tensor | None:
        """(B, D) or (1, D), added to CLS; None without a camera."""
        rows = camera_rows(self.cv_embed if self.config.uses_cameras else None, cameras, count)
        return None if rows is None else (self.config.sie_coe * rows).to(self.dtype)

    def head(
        self,
        encoded: ClipReidEncoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """The last block for CLS, and what is read of it. Gradients exist from the named taps on."""
        self.check_taps(taps)
        with torch.set_grad_enabled(bool(taps)):
            kept = Taps(taps)
            last, tokens = self.image_encoder.transformer.blocks[-1], encoded.tokens
            normed = kept.open("vit_norm", last.ln_1(tokens))
            cls, weights = last.cls_only(tokens, normed)
            out = self._read_out(cls, weights[..., 1:], self.check_head(head), kept)
        if PATCH_TEXT in (self.native_maps if native is None else native):
            with torch.no_grad():
                self._add_patches(out, self.image_encoder.ln_post(last(tokens)[:, 1:]) @ self.image_encoder.proj)
        return out

    def _read_out(self, cls: Tensor, attention: Tensor, head: str, taps: Taps) -> HeadOutput:
        """(B, D) of CLS after the last block, before `ln_post`; (B, H, M) weights of the last block.

        After stage 1 there are no classes: what the classifiers give is random, and stands in `parts` alone.
        """
        f = self.image_encoder.ln_post(cls)
        g = f @ self.image_encoder.proj
        wide = self.classifier.weight.dtype
        feat, feat_proj = self.bottleneck(f.to(wide)), self.bottleneck_proj(g.to(wide))
        logits, logits_proj = self.classifier(feat), self.classifier_proj(feat_proj)
        scores = {"proj": logits_proj, "cls": logits, "both": logits + logits_proj}[head]
        known = slice(0, 0) if self.config.stage_1 else slice(None)
        likeness = None if self._texts is None else g.to(wide) @ self._texts.T
        return HeadOutput(
            logits=logits_proj[:, known],
            scores=scores[:, known],
            features=torch.cat((feat, feat_proj) if self.config.neck_feat == "after" else (f, g), dim=1),
            native_maps={CLS_ATTENTION: attention.mean(dim=1)},
            attention_heads=attention,
            text_score=None if likeness is None else likeness.amax(dim=1),
            text_scores=likeness,
            taps=taps.found,
            parts={"logits": [logits, logits_proj]} | ({} if likeness is None else {"logits_text": likeness}),
        )

    def _add_patches(self, out: HeadOutput, patches: Tensor) -> None:
        """The (B, M, E) projected patch tokens, and their cosine to the text that the image is most like."""
        assert self._texts is not None and out.text_scores is not None
        text = self._texts[out.text_scores.argmax(dim=1)]
        out.native_maps[PATCH_TEXT] = torch.cosine_similarity(patches.to(text.dtype), text.unsqueeze(1), dim=2)
        out.parts["patch_tokens"] = patches
        out.parts["text_features"] = self._texts

    def trace(
        self,
        images: Tensor,
        gradient: bool = True,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) self-attention of every block, first to last."""
        self.refuse_captions(captions)
        weights: list[Tensor] = []
        with torch.no_grad():
            tokens = self.image_encoder.embed(self.prepare(images), self._camera(cameras, len(images)))
        with torch.set_grad_enabled(gradient):
            x = self.image_encoder.transformer(tokens, record=weights)
            out = self._read_out(x[:, 0], weights[-1][:, :, 0, 1:], self.check_head(head), Taps())
        return out, weights

    def each_block(
        self,
        images: Tensor,
        encoded: ClipReidEncoded,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> HeadOutput of CLS after each block, as if it were the last, and the block's attention."""
        self.refuse_captions(captions)
        chosen = self.check_head(head)
        with torch.no_grad():
            embedded = self.image_encoder.embed(self.prepare(images), self._camera(cameras, len(images)))
        for tokens, weights in one_by_one(self.image_encoder.transformer.blocks, embedded):
            yield self._read_out(tokens[:, 0], weights[:, :, 0, 1:], chosen, Taps()), weights


@dataclass(frozen=True)
class ClipReidFamily:
    """CLIP-ReID, or its baseline, which has no prompts."""

    name: str
    signature: Signature
    config: type[FamilyConfig] = ClipReidConfig
    source: str = "github.com/Syliz517/CLIP-ReID"

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from the shapes and from what is stated; all tensors are used."""
        return ReadTensors(config=_infer(tensors, stated.fields), tensors=dict(tensors))

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model with random weights."""
        return ClipReid(cast(ClipReidConfig, config))


def _infer(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> ClipReidConfig:
    width, _, patch, _ = shape_of(tensors, "image_encoder.conv1.weight", 4)
    known: dict[str, FieldValue] = {
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": count_of(tensors, r"^image_encoder\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": shape_of(tensors, "image_encoder.proj")[1],
        "num_classes": shape_of(tensors, "classifier_proj.weight")[0],
        "camera_rows": _camera_rows(tensors, given),
        "stage_1": _never_trained(tensors, "bottleneck"),
    }
    assumed: dict[str, FieldValue] = {"vision_heads": heads_of(width)}
    if "prompt_learner.cls_ctx" in tensors:
        prompts = _prompt_sizes(tensors)
        known |= prompts
        assumed["text_heads"] = text_heads_of(prompts["text_width"])
    assumed["sie_camera"] = bool(known["camera_rows"])
    refuse_contradictions(given, known)
    rows = shape_of(tensors, "image_encoder.positional_embedding")[0] - 1  # besides CLS
    image_size, stride = layout_of(rows, patch, given)
    return ClipReidConfig.from_fields({**assumed, **given, **known, "image_size": image_size, "stride": stride})


def _prompt_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of the learned prompts and of their tower. Raises CheckpointError where no text can be made of them."""
    _, words, width = shape_of(tensors, "prompt_learner.cls_ctx", 3)
    layers = count_of(tensors, r"^text_encoder\.transformer\.resblocks\.(\d+)\.")
    positions = shape_of(tensors, "text_encoder.positional_embedding")[0]
    if not layers:
        raise CheckpointError("there are learned prompts (prompt_learner.cls_ctx), and the text tower has no blocks")
    if _BEGINNING + words >= positions:
        raise CheckpointError(
            f"prompt_learner.cls_ctx has {words} words for each class, which do not fit between a beginning of "
            f"{_BEGINNING} tokens and an end: the text tower has {positions} positions"
        )
    return {"text_width": width, "text_layers": layers, "context_length": positions, "prompt_length": words}


def _camera_rows(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> int:
    if given.get("sie_camera") is True and "cv_embed" not in tensors:
        raise CheckpointError("MODEL.SIE_CAMERA is stated, and the checkpoint has no camera embedding (cv_embed)")
    return camera_rows_of(tensors, "cv_embed", given, dims=2, with_views="cameras and views together")


def _never_trained(tensors: Mapping[str, Tensor], norm: str) -> bool:
    """Whether a batch norm has never seen a batch: its counter is 0, and its statistics are those it was made with.

    Files without the counter are not accused. Nor are weights that a script put into a new model, whose counter may
    be 0 too. What has another shape than it should is found later.
    """
    made = {"num_batches_tracked": 0, "running_mean": 0, "running_var": 1}
    found = {name: tensors.get(f"{norm}.{name}") for name in made}
    return all(tensor is not None and bool((tensor == made[name]).all()) for name, tensor in found.items())


_NO_RELATIVE = (r"^mim\.", r"^interaction\.", r"^cross_guidance\.", r"^cff\.")
FAMILIES = (
    ClipReidFamily(
        "CLIP-ReID",
        Signature(has=(r"^prompt_learner\.cls_ctx$", r"^image_encoder\.conv1\.weight$"), lacks=_NO_RELATIVE),
    ),
    ClipReidFamily(
        "CLIP-ReID's baseline",
        Signature(has=(r"^image_encoder\.proj$", r"^classifier_proj\.weight$"), lacks=(*_NO_RELATIVE, r"^prompt_")),
    ),
)
