"""IRRA: recorded results, a literal reference for every variant of its checkpoints, its texts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from cam import CamError, extract_maps
from cam.names import column_of
from cam.targets import similarity_target
from promptsg_core import CheckpointError, ModelError, inspect_checkpoint, load_model
from promptsg_core.families.irra import Irra, IrraConfig
from promptsg_core.tokenise import make_prompt, places_of, read_caption
from tests.promptsg_core.test_golden import correlations, worst
from tests.promptsg_core.test_tokenise import needs_vocabulary
from tests.support.reference_irra import cams, cosine, cross_attention, read_image, read_text
from tests.support.tiny_irra import JOINT, LAYERS, TEXT_LAYERS, WIDTH, tiny_irra

CAMS = ("gradcam/vit_norm", "hirescam/vit_norm", "gradcam++/vit_norm", "chefer")
MEN = "a man in a red shirt and black shorts carrying a backpack"
WOMEN = "a woman with long hair wearing a white dress"


@pytest.fixture(scope="module")
def recorded(golden: Path) -> tuple[dict[str, Any], Tensor, list[str]]:
    wanted = dict(np.load(golden / "irra_s16.npz"))
    pixels = torch.from_numpy(np.load(golden / "preprocessed.npz")["images"]).double() * 0.5 + 0.5
    mean, std = (torch.from_numpy(each)[:, None, None] for each in wanted["images_mean_std"])
    return wanted, (pixels - mean) / std, [str(wanted["texts"][row % 2]) for row in range(len(pixels))]


def load(path: Path, precision: str = "fp32", **given: Any) -> Irra:
    return cast(Irra, load_model(path, device="cpu", precision=precision, **given))


def grid_of(model: Irra, maps: Tensor) -> Tensor:
    return torch.unflatten(maps.flatten(1), 1, model.grid)


@needs_vocabulary
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_recorded_outputs(golden: Path, recorded: Any, dtype: torch.dtype, exact: float) -> None:
    wanted, images, captions = recorded
    model = load(golden / "irra_s16.pth").to(dtype)
    model.add_prompts({word: make_prompt(word) for word in ("a", "backpack", "dress")})
    out = model.forward_with_attention(images.to(dtype), captions=captions)
    found = {name: one for name, one in out.items() if isinstance(one, Tensor)}
    words = wanted["cross_attention_words"]  # row i is token i + 1
    for name, tensor, value in (
        ("features", found["features"], wanted["features"]),
        ("logits", out["logits"][0], wanted["logits"]),
        ("text_features", found["text_features"], wanted["text_features"]),
        ("patch_tokens", found["patch_tokens"], wanted["patch_tokens"]),
        ("cls_attention", grid_of(model, found["cls_attention"]), wanted["cls_attention"]),
        ("patch_text", grid_of(model, found["patch_text:caption"]), wanted["patch_text"]),
        ("eot", grid_of(model, found["cross_attention:caption"]), wanted["cross_attention_eot"]),
        ("backpack", grid_of(model, found["cross_attention:backpack"])[::2], words[::2, 11]),
        ("a", grid_of(model, found["cross_attention:a"])[::2], words[::2][:, [0, 3, 10]].mean(1)),
        ("dress", grid_of(model, found["cross_attention:dress"])[1::2], words[1::2, 8]),
    ):
        assert worst(tensor, value) < exact, name
    assert not found["cross_attention:dress"][::2].any()  # the other captions do not have the word


@needs_vocabulary
def test_recorded_maps(golden: Path, recorded: Any) -> None:
    wanted, images, captions = recorded
    model = load(golden / "irra_s16.pth")
    references = torch.from_numpy(wanted["features"]).float()[[1 - row % 2 for row in range(len(images))]]
    for tag, target in (("", "predicted"), ("_text", "text"), ("_similarity", similarity_target(references))):
        result = extract_maps(model, images.float(), (*CAMS, "rollout"), target, captions=captions)  # type: ignore[arg-type]
        for name in (*CAMS, *(() if tag else ("rollout",))):
            value = wanted[f"{column_of(name)}{tag}"]
            rows = value.reshape(len(value), -1).any(1)
            assert worst(result.maps[name][rows], value[rows]) < 1e-3, (name, tag)
            assert not result.maps[name][~rows].any(), (name, tag)
        if tag == "_text":
            np.testing.assert_allclose(result.score.numpy(), wanted["similarity_text"], atol=1e-5)
        if not tag:
            np.testing.assert_array_equal(result.predicted.numpy(), wanted["predicted"])


@needs_vocabulary
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9), ("fp16", 0.99)])  # random weights attend very sharply
def test_recorded_maps_in_low_precision(golden: Path, recorded: Any, precision: str, least: float) -> None:
    wanted, images, captions = recorded
    names = (*CAMS[:3], "cls_attention", "cross_attention:caption", "patch_text:caption")
    result = extract_maps(load(golden / "irra_s16.pth", precision), images.float(), names, "text", captions=captions)
    keys = [f"{column_of(name)}_text" for name in names[:3]] + ["cls_attention", "cross_attention_eot", "patch_text"]
    for name, key in zip(names, keys, strict=True):
        assert np.median(correlations(result.maps[name], wanted[key])) >= least, name


VARIANTS: dict[str, dict[str, Any]] = {
    "384x128, halves": {"half": True},
    "256x128": {"patches": 128, "stride": 4, "size": (64, 32)},
    "256x128, stride 12": {"patches": 210, "stride": 3, "size": (64, 32)},
    "384x128, stride 12": {"patches": 310, "stride": 3, "size": (96, 32)},
    "no classifier": {"classes": 0},
    "no masked captions": {"masked_captions": False},
}


@needs_vocabulary
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_what_the_formulas_say(tmp_path: Path, variant: str, prefix: str) -> None:
    options = dict(VARIANTS[variant])
    size, stride = options.pop("size", (96, 32)), options.pop("stride", 4)
    state = tiny_irra(**options)
    model = saved(tmp_path, {prefix + key: tensor for key, tensor in state.items()})
    assert (model.config.image_size, model.config.stride) == (size, stride)
    model.add_prompts({"look": make_prompt(WOMEN), "hair": make_prompt("hair"), "other": make_prompt(MEN)})
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8, generator=generator)
    captions = [MEN, "short hair, a beard and grey hair", WOMEN]  # two prompts of several words: none of them serves
    target = "predicted" if options.get("classes") != 0 and prefix else "text"
    names = [name for name in model.native_maps if not name.endswith((":caption", ":other"))] + list(CAMS[:2])
    result = extract_maps(model, images, names, target, captions=captions)
    wide = {key: tensor.double() for key, tensor in state.items()}
    texts = [make_prompt(text) for text in captions]
    look, hair = (
        read_text(wide, list(make_prompt(one).tokens), layers=TEXT_LAYERS, heads=8) for one in (WOMEN, "hair")
    )
    for row, text in enumerate(texts):
        read = read_image(wide, images[row], stride=stride, layers=LAYERS, heads=WIDTH // 64)
        own = read_text(wide, list(text.tokens), layers=TEXT_LAYERS, heads=8)
        end = len(text.tokens) - 1
        score = cosine(read.feature, own[end]) if target == "text" else cast(Tensor, read.logits).max()
        wanted = {
            "cls_attention": read.cls_heads.mean(0),
            "patch_text:look": cosine(read.projected[1:], look[len(make_prompt(WOMEN).tokens) - 1]),
            "patch_text:hair": cosine(read.projected[1:], hair[2]),
            **cams(read, score),
        }
        if "cross_attn.in_proj_weight" in state:
            places = [place for place, token in enumerate(text.tokens) if token == make_prompt("hair").tokens[1]]
            rows = cross_attention(wide, own, read.projected, JOINT // 64)
            wanted["cross_attention:hair"] = rows[places].mean(0) if places else rows[0] * 0
            wanted["cross_attention:look"] = cross_attention(wide, look, read.projected, JOINT // 64)[
                len(make_prompt(WOMEN).tokens) - 1
            ]
            assert len(places) == (0, 2, 1)[row]
        assert set(wanted) == set(names)
        torch.testing.assert_close(result.score[row].double(), score.detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result.features[row].double(), read.feature.detach(), atol=1e-4, rtol=1e-4)
        if read.logits is None:
            assert result.predicted[row] == -1 and result.probability[row].isnan()
        else:
            assert result.predicted[row] == read.logits.argmax()
        for name, value in wanted.items():
            value = value.detach()
            limit = 1e-3 * float(value.abs().max())
            assert float((result.maps[name][row].flatten().double() - value).abs().max()) <= limit, name


def saved(folder: Path, state: dict[str, Tensor], **given: Any) -> Irra:
    path = folder / "best.pth"
    torch.save({"model": state, "optimizer": {}, "scheduler": {}, "epoch": 60, "num_epoch": 60, "iteration": 9}, path)
    return load(path, **given)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Irra:
    return saved(tmp_path_factory.mktemp("irra"), tiny_irra())


IMAGES = torch.randint(0, 256, (3, 3, 96, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def test_what_is_inferred(tmp_path: Path, model: Irra) -> None:
    assert model.grid == (24, 8) and model.config.mean == IrraConfig().mean == (0.48145466, 0.4578275, 0.40821073)
    assert model.config.default_maps == ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
    assert (model.config.num_classes, model.config.cross_heads, model.heads) == (7, 3, ("classifier",))
    torch.save({"model": tiny_irra(half=True)}, tmp_path / "half.pth")
    info = inspect_checkpoint(tmp_path / "half.pth")
    assert (info.family, info.dtype, info.weights_key) == ("IRRA", "float16, float32", "model")
    assert IrraConfig.from_fields(IrraConfig.fields_from(info.config.to_dict())) == info.config
    wide = load(tmp_path / "half.pth", image_size=(64, 48))  # as many patches, when it is stated
    assert wide.grid == (16, 12)


@needs_vocabulary
def test_rows_without_a_text_are_nan_and_the_others_are_not_touched(model: Irra) -> None:
    names = ["patch_text:caption", "cross_attention:caption", "hirescam/vit_norm", "gradcam++/vit_norm", "chefer"]
    some = extract_maps(model, IMAGES, names, "text", captions=[MEN, None, " "])
    alone = extract_maps(model, IMAGES[:1], names, "text", captions=[MEN])
    assert some.score.isnan().tolist() == [False, True, True]
    for name in names:
        assert some.maps[name][1:].isnan().all(), name
        torch.testing.assert_close(some.maps[name][:1], alone.maps[name], atol=1e-5, rtol=1e-3)


@needs_vocabulary
def test_the_text_of_an_image_is_the_only_prompt_else_its_caption(tmp_path: Path) -> None:
    model = saved(tmp_path, tiny_irra())
    with pytest.raises(
        CamError, match=r"the target text: no text was given: give a prompt .--prompt TEXT. or a caption"
    ):
        extract_maps(model, IMAGES, ["cls_attention"], "text")
    with pytest.raises(ModelError, match="maps of the images' captions were requested, and no captions were given"):
        extract_maps(model, IMAGES, ["patch_text:caption"], "feature")
    with pytest.raises(CamError, match="the model was given no prompt called bag; it has caption"):
        extract_maps(model, IMAGES, ["cross_attention:bag"], "feature")
    model.add_prompts({"look": make_prompt(WOMEN), "bag": make_prompt("backpack")})
    assert model.text_problem is None
    prompted = extract_maps(model, IMAGES, ["cls_attention"], "text")
    captioned = extract_maps(model, IMAGES, ["cls_attention", "cross_attention:bag"], "text", captions=[MEN, None, MEN])
    torch.testing.assert_close(prompted.score, captioned.score)
    in_prompt = extract_maps(model, IMAGES, ["cross_attention:bag"], "text").maps["cross_attention:bag"]
    torch.testing.assert_close(captioned.maps["cross_attention:bag"], in_prompt)
    model.add_prompts({"other": make_prompt(MEN)})
    with pytest.raises(CamError, match="the prompts look, other were given: which is meant"):
        extract_maps(model, IMAGES, ["cls_attention"], "text")
    with pytest.raises(ModelError, match="the prompts look, other were given"):
        extract_maps(model, IMAGES, ["cross_attention:bag"], "feature")
    assert "cross_attention:bag" not in model.forward_with_attention(IMAGES)
    again = extract_maps(model, IMAGES, ["cls_attention"], "text", captions=[WOMEN] * 3)
    torch.testing.assert_close(again.score, captioned.score)


@needs_vocabulary
def test_prompts_are_read_again_when_the_tower_has_changed(tmp_path: Path) -> None:
    model = saved(tmp_path, tiny_irra())
    model.add_prompts({"look": make_prompt(WOMEN)})
    with torch.inference_mode():
        before = model.encode(IMAGES).texts.prompts["look"].tokens
    assert model.encode(IMAGES).texts.prompts["look"].tokens is before and not before.is_inference()
    with torch.no_grad():
        model.base_model.text_projection.mul_(2)
    torch.testing.assert_close(model.encode(IMAGES).texts.prompts["look"].tokens, 2 * before)


def test_without_a_classifier_classes_are_refused_and_the_rest_works(tmp_path: Path) -> None:
    model = saved(tmp_path, tiny_irra(classes=0))
    assert "no classifier" in (model.class_problem or "")
    result = extract_maps(model, IMAGES, model.config.default_maps, "feature")
    assert result.predicted.tolist() == [-1] * 3 and bool(result.probability.isnan().all())
    assert all(bool(maps.isfinite().all()) for maps in result.maps.values())
    with pytest.raises(CamError, match="predicted needs a classifier, and this checkpoint has none"):
        extract_maps(model, IMAGES, ["gradcam/vit_norm"])
    for target in ("predicted", 3):
        with pytest.raises(CamError, match="needs a classifier, and this checkpoint has none; take feature"):
            extract_maps(model, IMAGES, ["chefer"], target)


@needs_vocabulary
def test_texts_that_cannot_be_read(model: Irra) -> None:
    for name, text, message in (
        ("caption", WOMEN, "a prompt is called caption, which stands for each image's own"),
        ("x", "a photo of a X person", "has an X, which stands for a person's pseudo word in PromptSG"),
    ):
        with pytest.raises(ModelError, match=message):
            model.add_prompts({name: make_prompt(text)})
    with pytest.raises(ModelError, match="2 captions were given for 3 images"):
        model.encode(IMAGES, captions=[MEN, WOMEN])
    with pytest.raises(ModelError, match="a single text was given for 3 images"):
        model.encode(IMAGES, captions=MEN)
    with pytest.raises(ModelError, match="no camera embedding"):
        model.encode(IMAGES, 2)
    long = read_caption("a red shirt " * 40)
    assert len(long.tokens) == 77 and long.tokens[-1] == 49407
    assert read_caption("X marks X").slot is None


@needs_vocabulary
def test_a_word_is_found_as_a_whole_word_only() -> None:
    khaki = read_caption("greenish trousers, green-ish T-shirt and a shirt")  # greenish is the tokens green and ish</w>
    assert places_of(make_prompt("ish"), khaki) == ((7,),)
    assert places_of(make_prompt("shirt"), khaki) == ((10,), (13,))
    assert places_of(make_prompt("t-shirt"), khaki) == ((8, 9, 10),)
    assert places_of(make_prompt("greenish"), khaki) == ((1, 2),)
    assert places_of(make_prompt("bag"), khaki) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model.ln_final.bias": None}, "missing base_model.ln_final.bias"),
        ({"ln_pre_i.weight": None}, "missing ln_pre_i.weight"),
        ({"classifier.bias": None}, "missing classifier.bias"),
        ({"IM2TEXT.fc_out.weight": torch.zeros(2, 2)}, "unexpected IM2TEXT.fc_out.weight"),
        ({"mlm_head.further.weight": torch.zeros(2)}, "unexpected mlm_head.further.weight"),
        ({"visul_emb_layer.fc.weight": torch.zeros(2)}, "family RDE is not supported"),
        ({"base_model.visual.layer1.0.conv1.weight": torch.zeros(2)}, "family RN50 of IRRA is not supported"),
    ],
)
def test_a_key_more_or_less_is_refused_by_its_name(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    state = {key: tensor for key, tensor in {**tiny_irra(), **changes}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        saved(tmp_path, state)


def test_what_does_not_exist_in_this_family_is_refused(tmp_path: Path, model: Irra) -> None:
    with pytest.raises(ModelError, match="IRRA has no neck"):
        saved(tmp_path, tiny_irra(), neck_feat="after")
    with pytest.raises(CamError, match=r"no score of this model sees a patch at vit_last.*take gradcam/vit_norm"):
        extract_maps(model, IMAGES, ["gradcam/vit_last"])
    with pytest.raises(ModelError, match="the head 'cls' is none of this model's: classifier"):
        extract_maps(model, IMAGES, ["cls_attention"], head="cls")
    plain = saved(tmp_path, tiny_irra(masked_captions=False))
    with pytest.raises(CamError, match="unknown map 'cross_attention:caption'"):
        extract_maps(plain, IMAGES, ["cross_attention:caption"])
