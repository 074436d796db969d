"""The families of checkpoints that re-ID people have and that are refused: how they are told, and why (no torch)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A family of checkpoints that is refused: how its keys look, what it is called, and why.

    Every pattern of `has` must match a key, and none of `lacks` may.
    """

    family: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    reason: str

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether the keys are this family's."""
        names = list(keys)

        def found(pattern: str) -> bool:
            return any(re.search(pattern, name) for name in names)

        return all(found(pattern) for pattern in self.has) and not any(found(pattern) for pattern in self.lacks)


_NO_MIM = "it has no MIM, and its own maps are not computed yet"
_PROMPTSG_PARTS = (r"^mim\.", r"^interaction\.", r"^cross_guidance\.", r"^cff\.", r"^prompt_")

# Tried in this order; the first that fits decides, so the more particular come first.
SIGNATURES = (
    Signature(
        family="RN50 of CLIP-ReID",
        has=(r"^image_encoder\.layer1\.", r"^(?:prompt_learner|classifier_proj|classifier)\."),
        lacks=(r"^mim\.",),
        reason=_NO_MIM,
    ),
    # Relatives of PromptSG, which have a MIM or something in its place.
    Signature(
        family="RN50 of PromptSG",
        has=(r"^image_encoder\.layer1\.",),
        reason="a ResNet-50 tower, whose MIM projections were never trained",
    ),
    Signature(
        family="A, B or C of PromptSG",
        has=(r"^cross_guidance\.",),
        reason="cross guidance instead of a MIM",
    ),
    Signature(
        family="F or G of PromptSG, with interaction.gamma",
        has=(r"^interaction\.gamma$",),
        reason="its attention map is exactly uniform: it would show nothing",
    ),
    Signature(
        family="F or G of PromptSG, with interaction.map_attn",
        has=(r"^interaction\.map_attn\.",),
        reason="its attention map does not lie on patches",
    ),
    Signature(
        family="F or G of PromptSG",
        has=(r"^interaction\.",),
        reason="all 77 text tokens ask there, after a post-norm, which is another computation than the MIM's",
    ),
    Signature(
        family="CLIPSCGI",
        has=(r"^(?:cff|cgi)\.|^mim\.cross_attn\.mha\.",),
        reason="it computes its cross-attention in another way",
    ),
    Signature(
        family="IADT",
        has=(r"^attr_tokenizer\.|^vit_final_patch_proj\.",),
        reason="attribute tokens take part in its attention",
    ),
    Signature(
        family="D of PromptSG",
        has=(r"^mim\.(?:cross_norm\.|.*mlp\.2\.)",),
        reason="its MIM does not re-weight patches and reads another token sequence",
    ),
    # Other families of person re-identification.
    Signature(
        family="CLIP-ReID",
        has=(r"^prompt_learner\.cls_ctx$",),
        reason=_NO_MIM,
    ),
    Signature(
        family="CLIP-ReID's baseline",
        has=(r"^image_encoder\.proj$", r"^classifier_proj\.weight$"),
        lacks=_PROMPTSG_PARTS,
        reason=_NO_MIM,
    ),
    Signature(
        family="TransReID-SSL or PersonViT",
        has=(r"^base\.patch_embed\.conv\.",),
        reason=_NO_MIM,
    ),
    Signature(
        family="SOLIDER",
        has=(r"^base\.patch_embed\.projection\.", r"^base\.stages\."),
        reason=_NO_MIM,
    ),
    Signature(
        family="TransReID",
        has=(r"^base\.cls_token$", r"^base\.blocks\.0\.attn\.qkv\.weight$"),
        reason=_NO_MIM,
    ),
    Signature(
        family="RDE",
        has=(r"^base_model\.visual\.conv1\.weight$", r"^(?:visul|texual)_emb_layer\."),
        reason=_NO_MIM,
    ),
    Signature(
        family="IRRA or a relative such as LPNC and PLOT",
        has=(r"^base_model\.visual\.conv1\.weight$",),
        reason=_NO_MIM,
    ),
    Signature(
        family="fast-reid",
        has=(r"^backbone\.", r"^heads\.(?:bottleneck\.0|weight|classifier)"),
        reason=_NO_MIM,
    ),
    Signature(
        family="BoT or TransReID's ResNet",
        has=(r"^base\.conv1\.weight$", r"^base\.layer1\."),
        reason=_NO_MIM,
    ),
    Signature(
        family="OSNet of torchreid",
        has=(r"^conv1\.conv\.weight$", r"^conv2\.0\.conv1\.", r"^fc\.0\."),
        reason=_NO_MIM,
    ),
    Signature(
        family="CLIP (OpenAI's or open_clip's names)",
        has=(r"^visual\.", r"^token_embedding\.weight$"),
        lacks=(r"^mim\.",),
        reason="it was not trained for re-identification and has no MIM; `promptsg train --init` starts from it",
    ),
)


def signature_of(keys: Iterable[str]) -> Signature | None:
    """The family that the keys belong to, of those that are not read; None for all others."""
    names = list(keys)
    return next((signature for signature in SIGNATURES if signature.fits(names)), None)
