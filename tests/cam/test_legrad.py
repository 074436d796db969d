"""LeGrad (arXiv:2404.03214) of every ViT family against literal transcriptions that read each block out, in float64."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cam import CamError, extract_maps, map_names
from cam.names import MapName
from cam.relevance import legrad
from cam.targets import Target, class_target, similarity_target
from promptsg_core import load_model
from promptsg_core.families.clipreid import ClipReid
from promptsg_core.families.irra import Irra
from promptsg_core.model import AnyModel
from promptsg_core.prompts import PROMPTS
from tests.promptsg_core.test_model import build, reference_of
from tests.promptsg_core.test_tokenise import needs_vocabulary
from tests.support import reference_clipreid, reference_irra, reference_transreid
from tests.support.tiny import tiny_state as tiny_promptsg
from tests.support.tiny_clipreid import tiny_clipreid
from tests.support.tiny_irra import tiny_irra
from tests.support.tiny_transreid import Sizes
from tests.support.tiny_transreid import tiny_state as tiny_transreid

Block = tuple[dict[str, Tensor], Tensor]  # what is read out after a block, by name; the block's (H, N, N) weights
COUNT = 2
LABELS = torch.tensor([4, 0])
CAMERAS = torch.tensor([2, 0])
CAPTIONS = ["a man in a red shirt", "a woman with a grey backpack"]


@dataclass(frozen=True)
class Case:
    """A model in float64, images, and of each image its blocks as the transcription reads them out, first to last.

    A block's values are `logits`, whose largest is the predicted class, `features`, `text`, and the logits of each
    further head under the head's name.
    """

    model: AnyModel
    images: Tensor
    blocks: Callable[[int], Sequence[Block]]
    given: Mapping[str, Any]


def loaded(state: Mapping[str, Tensor], **stated: Any) -> AnyModel:
    """The model of a state dict, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(state), Path(folder) / "m.pth")
        return load_model(Path(folder) / "m.pth", device="cpu", precision="fp32", **stated).double()


def images_of(model: AnyModel) -> Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (COUNT, 3, *model.config.image_size), dtype=torch.uint8, generator=made)


def wide(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.double() for key, tensor in state.items()}


def promptsg_case(mode: str) -> Case:
    config, state = tiny_promptsg(prompt_mode=mode)
    model = build(config, state)
    images = images_of(model)
    depths = [(depth, 0) for depth in range(1, config.vision_layers + 1)]
    depths += [(config.vision_layers, depth) for depth in range(1, config.mim_layers + 1)]

    def blocks(row: int) -> list[Block]:
        found = []
        for tower, post in depths:
            cut = replace(config, vision_layers=tower, mim_layers=post or config.mim_layers)
            one = reference_of(cut, state, images[row], whole=True)
            values = {"logits": one.values["logits_proj"], "features": one.values["features_before"]}
            found.append((values, one.weights[tower + post - 1]))
        return found

    return Case(model, images, cache(blocks), {})


def clipreid_case() -> Case:
    state = tiny_clipreid(grid=(8, 4), cameras=3)
    model = loaded(state, image_size=(32, 16), stride=4, sie_coe=1.5)
    assert isinstance(model, ClipReid)
    images, exact = images_of(model), wide(state)

    def blocks(row: int) -> list[Block]:
        camera, found = 1.5 * exact["cv_embed"][CAMERAS[row]], []
        for depth in range(1, model.config.vision_layers + 1):
            one = reference_clipreid.explain(
                exact, (images[row].double() / 255 - 0.5) / 0.5, stride=4, layers=depth, heads=2, camera=camera,
                text=model._texts.double(),
            )  # fmt: skip
            values = {"logits": one["logits_proj"], "cls": one["logits"], "both": one["logits"] + one["logits_proj"]}
            found.append((values | {"features": one["features_before"], "text": one["logits_text"]}, one["weights"]))
        nearest = found[-1][0]["text"].argmax()
        return [(values | {"text": values["text"][nearest]}, weights) for values, weights in found]

    return Case(model, images, cache(blocks), {"cameras": CAMERAS})


def transreid_case(sizes: Sizes, cosine: float | None = None, neck: str = "before") -> Case:
    state, exact = tiny_transreid(sizes), wide(tiny_transreid(sizes))
    loss = {} if cosine is None else {"id_loss_type": "arcface", "cosine_scale": cosine}
    model = loaded(state, image_size=sizes.image_size, stride=16, neck_feat=neck, **loss)
    images, settings = images_of(model), reference_transreid.Settings(heads=2, scale=64**-0.5, cosine=cosine)

    def named(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": values["logits"], "all": values["all"], "features": values[f"features_{neck}"]}

    def blocks(row: int) -> list[Block]:
        image, camera = (images[row].double() / 255 - 0.5) / 0.5, int(CAMERAS[row])
        whole = reference_transreid.run(exact, image, settings, camera)
        x, found = reference_transreid.embed(exact, image, settings, camera), []
        for number in range(sizes.depth - 1):
            name = f"base.blocks.{number}"
            normed = reference_transreid.layer_norm(exact, f"{name}.norm1", x)
            x, weights = reference_transreid.block(exact, name, x, normed, settings)
            norms = ["b1.1", *["b2.1"] * 4] if sizes.jpm else ["base.norm"]
            branches = [reference_transreid.layer_norm(exact, norm, x[0]) for norm in norms]
            found.append((named(reference_transreid.read_out(exact, branches, settings)), weights))
        return [*found, (named(whole.values), whole.weights[-1])]

    return Case(model, images, cache(blocks), {"cameras": CAMERAS} if sizes.cameras else {})


def irra_case(captions: list[str] | None, classes: int = 7) -> Case:
    state = tiny_irra(32, classes=classes)
    exact, model = wide(state), loaded(state, image_size=(32, 16), stride=4)
    assert isinstance(model, Irra)
    images = images_of(model)
    texts = [PROMPTS["simplified"]] * COUNT
    if captions is None:
        model.add_prompts({"look": PROMPTS["simplified"]})
    else:  # a prompt would be the text of all images
        from promptsg_core.tokenise import make_prompt

        texts = [make_prompt(caption) for caption in captions]

    def blocks(row: int) -> list[Block]:
        tokens, found = list(texts[row].tokens), []
        text = reference_irra.read_text(exact, tokens, layers=2, heads=8)[len(tokens) - 1]
        for depth in range(1, 4):
            one = reference_irra.read_image(exact, images[row], stride=4, layers=depth, heads=2)
            logits = torch.zeros(0) if one.logits is None else one.logits
            likeness = reference_irra.cosine(one.feature, text)
            found.append(({"logits": logits, "features": one.feature, "text": likeness}, one.weights[-1]))
        return found

    return Case(model, images, cache(blocks), {"captions": captions} if captions else {})


CASES: dict[str, Callable[[], Case]] = {
    "PromptSG": partial(promptsg_case, "composed"),
    "PromptSG, simplified": partial(promptsg_case, "simplified"),
    "CLIP-ReID": clipreid_case,
    "TransReID": partial(transreid_case, Sizes(depth=3)),
    "TransReID, arcface": partial(transreid_case, Sizes(depth=2, cameras=0), 16.0, "after"),
    "TransReID without JPM": partial(transreid_case, Sizes(depth=3, jpm=False)),
    "IRRA": partial(irra_case, None),
    "IRRA without a classifier": partial(irra_case, None, 0),
    "IRRA, captions": partial(irra_case, CAPTIONS),
}
ALL_TARGETS = ("predicted", "label", "feature", "similarity")
EXPLAINED = [
    *(("PromptSG", target, None) for target in ALL_TARGETS),
    *(("PromptSG, simplified", target, None) for target in ALL_TARGETS),
    *(("CLIP-ReID", target, None) for target in (*ALL_TARGETS, "text")),
    *(("CLIP-ReID", target, head) for target in ("predicted", "label") for head in ("cls", "both")),
    *(("TransReID", target, None) for target in ALL_TARGETS),
    *(("TransReID", target, "all") for target in ALL_TARGETS),
    *(("TransReID, arcface", target, head) for target in ALL_TARGETS for head in (None, "all")),
    *(("TransReID without JPM", target, None) for target in ALL_TARGETS),
    *(("IRRA", target, None) for target in (*ALL_TARGETS, "text")),
    *(("IRRA without a classifier", target, None) for target in ("feature", "similarity", "text")),
    pytest.param("IRRA, captions", "text", None, marks=needs_vocabulary),
]


@cache
def case_of(name: str) -> Case:
    return CASES[name]()


def literal_legrad(scores_and_weights: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Of each block its score and its (H, N, N) weights -> (M,): arXiv:2404.03214, before the map is stretched."""
    total = torch.zeros(())
    for score, weights in scores_and_weights:
        (gradient,) = torch.autograd.grad(score, weights, retain_graph=True)
        heads, queries, _ = gradient.shape
        block = sum(torch.relu(gradient[h, i]) for h in range(heads) for i in range(queries)) / (heads * queries)
        total = total + block / len(scores_and_weights)
    return total[1:]


def references_of(case: Case) -> Tensor:
    """(B, F): a feature for each image to be similar to."""
    made = torch.Generator().manual_seed(5)
    return torch.randn(COUNT, case.model.config.feature_dim, dtype=torch.float64, generator=made)


def score_of(case: Case, values: dict[str, Tensor], target: str, head: str | None, row: int) -> Tensor:
    if target == "text":
        return values["text"]
    if target == "feature":
        return values["features"].sum()
    if target == "similarity":
        return torch.cosine_similarity(values["features"], references_of(case)[row], dim=0)
    predicted = int(case.blocks(row)[-1][0]["logits"].argmax())
    return values[head or "logits"][int(LABELS[row]) if target == "label" else predicted]


@pytest.mark.parametrize(("name", "target", "head"), EXPLAINED)
def test_every_block_is_read_out_as_if_it_were_the_last(name: str, target: str, head: str | None) -> None:
    case = case_of(name)
    data: dict[str, Target] = {
        "label": class_target(LABELS),
        "similarity": similarity_target(references_of(case)),
    }
    chosen = data.get(target, target)
    found = extract_maps(case.model, case.images, ["legrad"], chosen, head=head, **case.given).maps["legrad"]
    assert found.shape == (COUNT, *case.model.grid)
    for row in range(COUNT):
        pairs = [(score_of(case, values, target, head, row), weights) for values, weights in case.blocks(row)]
        wanted = literal_legrad(pairs)
        assert wanted.max() > 0
        torch.testing.assert_close(found[row].flatten().double(), wanted, rtol=1e-5, atol=1e-6 * wanted.max().item())


def test_the_head_and_the_stripes_matter() -> None:
    case = case_of("TransReID")
    usual, every = (
        extract_maps(case.model, case.images, ["legrad"], head=head, **case.given).maps["legrad"]
        for head in ("global", "all")
    )
    assert (usual - every).abs().max() > 0.01 * usual.max()


def test_two_blocks_by_hand() -> None:
    # One image, two heads, CLS and one patch. Column 1 of the positive parts: 2 + 1 of four, then 4 of four.
    first = torch.tensor([[[[5.0, 2.0], [0.0, -3.0]], [[0.0, 1.0], [0.0, -1.0]]]])
    last = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]], [[9.0, 0.0], [0.0, 0.0]]]])
    torch.testing.assert_close(legrad(iter([first, last])), torch.tensor([[(0.75 + 1.0) / 2]]))
    assert MapName.parse("legrad").needs_target and not MapName.parse("legrad").is_native


@pytest.mark.parametrize("name", ["PromptSG", "CLIP-ReID", "TransReID", "TransReID without JPM", "IRRA"])
def test_one_blocks_graph_is_held_at_a_time_and_nothing_stays(name: str) -> None:
    case = case_of(name)
    model, given = case.model, case.given
    encoded = model.encode(case.images, **given)
    held: list[weakref.ref[Tensor]] = []
    for out, weights in model.each_block(case.images, encoded, **given):
        held.append(weakref.ref(weights))
        assert [one() is not None for one in held] == [False] * (len(held) - 1) + [True]
        assert torch.autograd.grad(out.features.sum(), weights)[0].any()
    earlier: list[Tensor] = []
    for out, weights in model.each_block(case.images, encoded, **given):
        gradients = torch.autograd.grad(out.features.sum(), [weights, *earlier], allow_unused=True)
        assert gradients[0] is not None and all(gradient is None for gradient in gradients[1:])
        earlier.append(weights)
    assert len(earlier) == len(held) == len(case.blocks(0))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("PromptSG, simplified", torch.bfloat16),
        ("CLIP-ReID", torch.float16),
        ("TransReID", torch.float16),
        ("TransReID without JPM", torch.bfloat16),
        ("IRRA", torch.bfloat16),
    ],
)
def test_low_precision_is_close_and_the_batch_does_not_matter(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]()  # its own, since it is converted
    exact = extract_maps(case.model, case.images, ["legrad"], "feature", **case.given).maps["legrad"]
    last = {option: values[1:] for option, values in case.given.items()}
    alone = extract_maps(case.model, case.images[1:], ["legrad"], "feature", **last).maps["legrad"][0]
    torch.testing.assert_close(alone, exact[1], rtol=1e-6, atol=1e-9)
    rough = extract_maps(case.model.float().convert(dtype), case.images, ["legrad"], "feature", **case.given).maps[
        "legrad"
    ]
    for row in range(COUNT):
        both = torch.stack([exact[row].flatten().float(), rough[row].flatten()])
        assert rough.isfinite().all() and torch.corrcoef(both)[0, 1] > 0.98, row


@needs_vocabulary
def test_an_image_without_a_text_has_no_map_and_the_others_keep_theirs() -> None:
    model, images = loaded(tiny_irra(32), image_size=(32, 16), stride=4), case_of("IRRA").images
    some = extract_maps(model, images, ["legrad"], "text", captions=[CAPTIONS[0], None]).maps["legrad"]
    alone = extract_maps(model, images[:1], ["legrad"], "text", captions=CAPTIONS[:1]).maps["legrad"]
    assert some[1].isnan().all()
    torch.testing.assert_close(some[:1], alone, rtol=1e-6, atol=1e-9)


def test_what_a_model_does_not_take_is_refused() -> None:
    plain, classless = case_of("TransReID, arcface"), case_of("IRRA without a classifier")
    with pytest.raises(CamError, match="target predicted needs a classifier, and this checkpoint has none"):
        extract_maps(classless.model, classless.images, ["legrad"])
    with pytest.raises(CamError, match="does not compute the text that the target text starts from"):
        extract_maps(plain.model, plain.images, ["legrad"], "text")


@pytest.mark.parametrize("name", ["PromptSG", "CLIP-ReID", "TransReID", "IRRA"])
def test_it_is_a_method_of_every_model_with_attention_and_no_default(name: str) -> None:
    model = case_of(name).model
    assert map_names(model, "legrad", "all") == ["legrad"] and "legrad" in map_names(model, "all", "all")
    assert "legrad" not in model.config.default_maps
