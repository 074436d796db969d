"""The families of checkpoints that re-ID people have and that are refused: how they are told, and why (no torch)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from promptsg_core.families.family import Signature


@dataclass(frozen=True, kw_only=True)
class RefusedFamily:
    """A family of checkpoints that is not read: how its keys look, what it is called, and why."""

    family: str
    signature: Signature
    reason: str


_NOT_READ = "its model is not written here yet"

# Tried in this order; the first that fits decides, so the more particular come first.
REFUSED = (
    RefusedFamily(
        family="RN50 of CLIP-ReID",
        signature=Signature(
            has=(r"^image_encoder\.layer1\.", r"^(?:prompt_learner|classifier_proj|classifier)\."), lacks=(r"^mim\.",)
        ),
        reason=_NOT_READ,
    ),
    # Relatives of PromptSG, which have a MIM or something in its place.
    RefusedFamily(
        family="RN50 of PromptSG",
        signature=Signature(has=(r"^image_encoder\.layer1\.",)),
        reason="a ResNet-50 tower, whose MIM projections were never trained",
    ),
    RefusedFamily(
        family="A, B or C of PromptSG",
        signature=Signature(has=(r"^cross_guidance\.",)),
        reason="cross guidance instead of a MIM",
    ),
    RefusedFamily(
        family="F or G of PromptSG, with interaction.gamma",
        signature=Signature(has=(r"^interaction\.gamma$",)),
        reason="its attention map is exactly uniform: it would show nothing",
    ),
    RefusedFamily(
        family="F or G of PromptSG, with interaction.map_attn",
        signature=Signature(has=(r"^interaction\.map_attn\.",)),
        reason="its attention map does not lie on patches",
    ),
    RefusedFamily(
        family="F or G of PromptSG",
        signature=Signature(has=(r"^interaction\.",)),
        reason="all 77 text tokens ask there, after a post-norm, which is another computation than the MIM's",
    ),
    RefusedFamily(
        family="CLIPSCGI",
        signature=Signature(has=(r"^(?:cff|cgi)\.|^mim\.cross_attn\.mha\.",)),
        reason="it computes its cross-attention in another way",
    ),
    RefusedFamily(
        family="IADT",
        signature=Signature(has=(r"^attr_tokenizer\.|^vit_final_patch_proj\.",)),
        reason="attribute tokens take part in its attention",
    ),
    RefusedFamily(
        family="D of PromptSG",
        signature=Signature(has=(r"^mim\.(?:cross_norm\.|.*mlp\.2\.)",)),
        reason="its MIM does not re-weight patches and reads another token sequence",
    ),
    # Other families of person re-identification.
    RefusedFamily(
        family="TransReID-SSL or PersonViT",
        signature=Signature(has=(r"^base\.patch_embed\.conv\.",)),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="SOLIDER",
        signature=Signature(has=(r"^base\.patch_embed\.projection\.", r"^base\.stages\.")),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="RDE",
        signature=Signature(has=(r"^base_model\.visual\.conv1\.weight$", r"^(?:visul|texual)_emb_layer\.")),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="RN50 of IRRA",
        signature=Signature(has=(r"^base_model\.visual\.layer1\.",)),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="fast-reid",
        signature=Signature(has=(r"^backbone\.", r"^heads\.(?:bottleneck\.0|weight|classifier)")),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="BoT or TransReID's ResNet",
        signature=Signature(has=(r"^base\.conv1\.weight$", r"^base\.layer1\.")),
        reason=_NOT_READ,
    ),
    RefusedFamily(
        family="CLIP (OpenAI's or open_clip's names)",
        signature=Signature(has=(r"^visual\.", r"^token_embedding\.weight$"), lacks=(r"^mim\.",)),
        reason="it was not trained for re-identification and has no MIM; `promptsg train --init` starts from it",
    ),
)


def refused_family(keys: Iterable[str]) -> RefusedFamily | None:
    """The family that the keys belong to, of those that are not read; None for all others."""
    names = list(keys)
    return next((one for one in REFUSED if one.signature.fits(names)), None)
