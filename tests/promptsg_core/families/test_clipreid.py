"""CLIP-ReID: against recorded results of its author's code, and every variant against its formulas in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam import GradCAM, GradCAMPlusPlus, HiResCAM, extract_maps, visualize_gradcam
from cam.errors import CamError
from cam.targets import Target, similarity_target
from promptsg_core import CheckpointError, ModelError, inspect_checkpoint, load_model
from promptsg_core.tokenise import make_prompt
from tests.support import reference_clipreid as reference
from tests.support.tiny_clipreid import LAYERS, of_stage_1, tiny_clipreid

METHODS = ("gradcam", "hirescam", "gradcam++")
MAPS = tuple(f"{method}/vit_norm" for method in METHODS)
RECORDED = {"gradcam/vit_norm": "gradcam_vit_norm", "hirescam/vit_norm": "hirescam_vit_norm",
            "gradcam++/vit_norm": "gradcampp_vit_norm", "chefer": "chefer"}  # fmt: skip


def worst(found: Tensor, wanted: NDArray) -> float:
    """The largest difference over the rows, each relative to its own largest value; rows of zeros must be zeros."""
    rows = np.abs(found.double().numpy() - wanted).reshape(len(wanted), -1).max(1)
    largest = np.abs(wanted).reshape(len(wanted), -1).max(1)
    return float((rows / np.where(largest > 0, largest, 1e-12)).max())


def saved(tmp_path: Path, **variant: object) -> Path:
    path = tmp_path / "clipreid.pth"
    torch.save(tiny_clipreid(**variant), path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def recorded(golden: Path) -> tuple[Path, dict[str, NDArray], Tensor]:
    images = torch.from_numpy(np.load(golden / "preprocessed.npz")["images"])
    return golden / "clipreid_s16.pth", dict(np.load(golden / "clipreid_s16.npz")), images


def test_recorded_outputs(recorded: tuple[Path, dict[str, NDArray], Tensor]) -> None:
    path, wanted, images = recorded
    out = load_model(path, device="cpu", precision="fp32").forward_with_attention(images)
    after = load_model(path, device="cpu", precision="fp32", neck_feat="after")
    logits, logits_proj = out["logits"]
    found = {name: out[name] for name in ("patch_tokens", "text_features", "logits_text")}
    found |= {"features_before": out["features"], "features_after": after(images)}
    found |= {"logits": logits, "logits_proj": logits_proj}
    found |= {name: out[name][:, 0].unflatten(1, (16, 8)) for name in ("cls_attention", "patch_text")}
    for name, tensor in found.items():
        assert isinstance(tensor, Tensor) and worst(tensor, wanted[name]) < 1e-4, name


@pytest.mark.parametrize(
    ("tag", "target", "head"),
    [("", "predicted", None), ("_cls", "predicted", "cls"), ("_both", "predicted", "both"), ("_text", "text", None),
     ("_similarity", "similarity", None)],
)  # fmt: skip
def test_recorded_maps(
    recorded: tuple[Path, dict[str, NDArray], Tensor], tag: str, target: str | Target, head: str | None
) -> None:
    path, wanted, images = recorded
    if target == "similarity":  # row i is compared with row 1 (i even) or row 0 (i odd)
        features = torch.from_numpy(wanted["features_before"]).float()
        target = similarity_target(features[[1 - row % 2 for row in range(len(images))]])
    names = [*MAPS, *(["chefer"] if f"chefer{tag}" in wanted else [])]
    model = load_model(path, device="cpu", precision="fp32")
    result = extract_maps(model, images, [*names, "rollout", "cls_attention"], target, head=head)
    np.testing.assert_array_equal(result.predicted.numpy(), wanted["predicted"])
    for name in names:
        assert worst(result.maps[name], wanted[f"{RECORDED[name]}{tag}"]) < 1e-3, name
    assert worst(result.maps["rollout"], wanted["rollout"]) < 1e-3
    assert worst(result.attention_heads, wanted["cls_attention_heads"]) < 1e-4


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9), ("fp16", 0.995)])
def test_recorded_maps_in_low_precision(
    recorded: tuple[Path, dict[str, NDArray], Tensor], precision: str, least: float
) -> None:
    path, wanted, images = recorded
    model = load_model(path, device="cpu", precision=precision)
    found = extract_maps(model, images, ["hirescam/vit_norm", "cls_attention"]).maps
    for name, key in (("hirescam/vit_norm", "hirescam_vit_norm"), ("cls_attention", "cls_attention")):
        pairs = zip(found[name].double().flatten(1).numpy(), wanted[key].reshape(len(images), -1), strict=True)
        assert np.median([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > least, name


VARIANTS = {
    "prompts": {},
    "baseline": {"prompts": False},
    "cameras": {"cameras": 6},
    "overlapping patches": {"grid": (21, 10), "prompts": False},
    "overlapping patches and cameras, of DataParallel": {"grid": (21, 10), "cameras": 8, "prefix": "module."},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_are_their_formulas(tmp_path: Path, variant: dict[str, object]) -> None:
    path, coefficient = saved(tmp_path, **variant), 1.5
    cameras = torch.tensor([2, 0, 5]) if "cameras" in variant else None
    model = load_model(path, device="cpu", precision="fp32", **({} if cameras is None else {"sie_coe": coefficient}))
    stride = model.config.stride
    assert (stride, model.camera_rows) == (3 if "grid" in variant else 4, variant.get("cameras", 0))
    state = {key: value.double() for key, value in tiny_clipreid(**{**variant, "prefix": ""}).items()}  # type: ignore[arg-type]
    images = torch.rand(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    text = reference.texts(state, layers=2, heads=8) if variant.get("prompts", True) else None
    rows = [None] * 3 if cameras is None else [coefficient * state["cv_embed"][row] for row in cameras.tolist()]
    wanted = [
        reference.explain(state, image.double(), stride=stride, layers=LAYERS, heads=2, camera=row, text=text)
        for image, row in zip(images, rows, strict=True)
    ]
    out = model.forward_with_attention(images, cameras)
    found = {"logits": out["logits"][0], "logits_proj": out["logits"][1], "features_before": out["features"],
             "cls_attention": out["cls_attention"][:, 0]}  # fmt: skip
    if text is not None:
        found |= {"patch_text": out["patch_text"][:, 0], "logits_text": out["logits_text"]}
    for name, tensor in found.items():
        assert isinstance(tensor, Tensor)
        assert worst(tensor, torch.stack([one[name] for one in wanted]).detach().numpy()) < 1e-4, name

    for head in ("proj", "cls", "both"):
        maps = extract_maps(model, images, MAPS, head=head, cameras=cameras).maps
        for row, one in enumerate(wanted):
            label = int(one["logits_proj"].argmax())
            scores = {"proj": one["logits_proj"], "cls": one["logits"], "both": one["logits"] + one["logits_proj"]}
            (gradient,) = torch.autograd.grad(scores[head][label], one["vit_norm"], retain_graph=True)
            activations, gradient = one["vit_norm"][1:].detach(), gradient[1:]
            by_hand = {
                "gradcam/vit_norm": torch.relu((activations * gradient.mean(0)).sum(1)),
                "hirescam/vit_norm": torch.relu((activations * gradient).sum(1)),
            }
            for name, map_ in by_hand.items():
                difference = (maps[name][row].flatten().double() - map_).abs().max()
                assert difference < 1e-3 * max(float(map_.max()), 1e-9), (head, name)


def test_the_classes_pass_on_head_and_cameras(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, cameras=6), device="cpu", precision="fp32")
    images = torch.rand(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with pytest.raises(ModelError, match="give cameras="):
        GradCAM(model, "vit_norm")(images)
    for cameras, head in ((torch.tensor([1, 4]), "cls"), ("mean", None)):
        wanted = extract_maps(model, images, head=head, cameras=cameras).maps
        assert tuple(wanted) == model.config.default_maps
        for method, name in ((HiResCAM, "hirescam/vit_norm"), (GradCAMPlusPlus, "gradcam++/vit_norm")):
            found = method(model, "vit_norm")(images, head=head, cameras=cameras)
            np.testing.assert_array_equal(found, wanted[name].numpy())
    pictures = [visualize_gradcam(model, images[0], method="hirescam", cameras=c, head=h)
                for c, h in ((1, "cls"), (4, "cls"), (1, "proj"))]  # fmt: skip
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_layers_that_no_score_sees_are_refused_with_the_one_to_take(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path), device="cpu", precision="fp32")
    images = torch.zeros(1, 3, *model.config.image_size, dtype=torch.uint8)
    for layer in ("vit_last", "vit_proj", "bottleneck", "classifier"):
        with pytest.raises(CamError, match=f"no score of this model sees a patch at {layer}.*take gradcam/vit_norm"):
            extract_maps(model, images, [f"gradcam/{layer}"])


def test_cameras_must_be_given_and_have_a_row(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, cameras=6), device="cpu", precision="fp32")
    images = torch.zeros(2, 3, *model.config.image_size, dtype=torch.uint8)
    with pytest.raises(ModelError, match="camera embedding of 6 rows: give cameras="):
        model(images)
    with pytest.raises(ModelError, match="camera 6 was given, and the camera embedding has 6 rows, from 0"):
        model(images, torch.tensor([0, 6]))
    with pytest.raises(ModelError, match="1 cameras were given for 2 images"):
        model(images, torch.tensor([0]))
    assert not torch.equal(model(images, 0), model(images, 1))
    assert not torch.equal(model(images, "mean"), model(images, "none"))
    unused = load_model(saved(tmp_path, cameras=6), device="cpu", precision="fp32", sie_camera=False)
    assert torch.equal(unused(images), model(images, "none")) and unused.camera_rows == 0


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = tiny_clipreid()
    path = tmp_path / "m.pth"
    torch.save({**state, "cross_layer.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected cross_layer\.weight"):
        load_model(path, device="cpu")
    torch.save({key: value for key, value in state.items() if key != "bottleneck.weight"}, path)
    with pytest.raises(CheckpointError, match=r"missing bottleneck\.weight"):
        load_model(path, device="cpu")
    torch.save({**state, "cv_embed": torch.ones(160, 128)}, path)
    with pytest.raises(CheckpointError, match="cv_embed has 160 rows, of cameras and views together"):
        load_model(path, device="cpu")


def test_a_counter_of_0_beside_trained_statistics_is_not_stage_1(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({**tiny_clipreid(), "bottleneck.num_batches_tracked": torch.tensor(0)}, path)
    assert load_model(path, device="cpu", precision="fp32").class_problem is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bottleneck.num_batches_tracked": torch.zeros(2)}, r"num_batches_tracked is \(2,\), expected \(\)"),
        ({"bottleneck.num_batches_tracked": torch.tensor(torch.nan)}, "NaN or infinite values in bottleneck.num_bat"),
        ({"bottleneck.running_mean": torch.zeros(2, 3)}, r"bottleneck.running_mean is \(2, 3\), expected \(128,\)"),
        ({"prompt_learner.cls_ctx": torch.zeros(5, 72, 64)}, "cls_ctx has 72 words .* the text tower has 77 positions"),
        ({"prompt_learner.cls_ctx": torch.zeros(5, 90, 64)}, "cls_ctx has 90 words .* the text tower has 77 positions"),
        ({"text_encoder.transformer.": None}, "learned prompts .*, and the text tower has no blocks"),
        ({"text_encoder.": None}, "the tensor text_encoder.positional_embedding is missing"),
    ],
)
def test_damaged_tensors_are_named_in_one_line(tmp_path: Path, changed: dict[str, Tensor | None], message: str) -> None:
    path, state = tmp_path / "m.pth", of_stage_1(tiny_clipreid())
    for name, tensor in changed.items():
        state = {key: kept for key, kept in state.items() if not key.startswith(name)}
        if tensor is not None:
            state[name] = tensor
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"m.pth: .*{message}") as found:
        inspect_checkpoint(path)
    assert "\n" not in str(found.value)


def test_a_checkpoint_of_stage_1_explains_no_class(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(of_stage_1(tiny_clipreid()), path)
    model = load_model(path, device="cpu", precision="fp32")
    assert "stage 1" in str(model.class_problem) and "stage" in inspect_checkpoint(path).config.facts
    images = torch.rand(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    names = [*model.config.default_maps, "rollout", "legrad"]
    for target in ("predicted", 3):
        with pytest.raises(CamError, match="needs a classifier, and this checkpoint has none; take feature, similari"):
            extract_maps(model, images, names, target)
    trained = load_model(saved(tmp_path), device="cpu", precision="fp32")
    for other in ("feature", "text"):
        found, wanted = (extract_maps(one, images, names, other) for one in (model, trained))
        assert found.predicted.tolist() == [-1, -1] and bool(found.probability.isnan().all())
        for name in names:
            torch.testing.assert_close(found.maps[name], wanted.maps[name])
    out = model.head(model.encode(images))
    assert out.logits.shape == out.scores.shape == (2, 0)
    raw = model.forward_with_attention(images)["logits"]
    assert [part.shape for part in raw] == [(2, 5), (2, 5)]


def test_prompts_and_heads_that_it_has_not(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path), device="cpu", precision="fp32")
    with pytest.raises(ModelError, match="hold no token embedding"):
        model.add_prompts({"bag": make_prompt("a bag")})
    with pytest.raises(ModelError, match="the head 'global' is none of this model's: proj, cls, both"):
        extract_maps(model, torch.zeros(1, 3, 64, 32, dtype=torch.uint8), ["gradcam/vit_norm"], head="global")
