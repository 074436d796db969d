"""TransReID: the recorded results of the authors' code, and every variant against a literal transcription."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam import CamError, GradCAM, extract_maps, map_names
from cam.names import GRADIENT_METHODS, column_of
from cam.targets import similarity_target
from promptsg_core import CheckpointError, ModelError, inspect_checkpoint, load_model
from promptsg_core.families.transreid.model import TransReid
from promptsg_core.families.transreid.stripes import Shuffle, stripes
from tests.support import reference_transreid as reference
from tests.support.tiny_transreid import Sizes, tiny_checkpoint, tiny_state

WHOLE = ["cls_attention", "rollout", "chefer", *(f"{method}/vit_norm" for method in GRADIENT_METHODS)]
LOCAL = ["local_attention", *(f"{method}/local_norm" for method in GRADIENT_METHODS)]


JPM, NO_JPM = Sizes(), Sizes(jpm=False, cameras=0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A checkpoint, how it is saved, what is stated of it, and the same for the reference."""

    sizes: Sizes = JPM
    heads: int = 2
    scale: float = 64**-0.5
    prefix: str = ""
    half: bool = False
    stated: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "JPM and cameras": Variant(),
    "JPM": Variant(sizes=Sizes(cameras=0)),
    "cameras": Variant(sizes=Sizes(jpm=False)),
    "neither": Variant(sizes=NO_JPM),
    "DataParallel": Variant(sizes=NO_JPM, prefix="module."),
    "half weights": Variant(half=True, prefix="module."),
    "stride 12": Variant(sizes=Sizes(image_size=(64, 32), stride=12)),
    "stride 11": Variant(sizes=Sizes(image_size=(128, 64), stride=11)),
    "stride 12 without JPM": Variant(sizes=Sizes(image_size=(64, 32), stride=12, jpm=False)),
    "an odd number of patches": Variant(sizes=Sizes(image_size=(112, 48), cameras=0)),
    "the small ViT": Variant(
        sizes=Sizes(depth=2, mlp_ratio=3, bias=False), heads=8, scale=128**-0.5,
        stated={"transformer_type": "vit_small_patch16_224_TransReID"},
    ),
    "the small ViT without JPM": Variant(
        sizes=Sizes(depth=2, mlp_ratio=3, bias=False, jpm=False), heads=8, scale=128**-0.5
    ),
    "DeiT-small": Variant(sizes=Sizes(width=384, depth=2), heads=6),
    "another coefficient": Variant(stated={"sie_coe": 1.5}, settings={"coefficient": 1.5}),
    "not shuffled": Variant(stated={"re_arrange": False}, settings={"shuffled": False}),
    "otherwise shuffled": Variant(
        sizes=Sizes(image_size=(80, 48)), stated={"shift_num": 3, "shuffle_group": 3, "devide_length": 5},
        settings={"shift": 3, "groups": 3, "parts": 5},
    ),
    "arcface": Variant(
        stated={"id_loss_type": "arcface", "cosine_scale": 16.0}, settings={"cosine": 16.0}
    ),
    "circle without JPM": Variant(sizes=NO_JPM, stated={"id_loss_type": "circle"}, settings={"cosine": 30.0}),
}  # fmt: skip


def images_of(sizes: Sizes, count: int = 3) -> Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *sizes.image_size), dtype=torch.uint8, generator=made)


def exact_model(path: Path, variant: Variant, **stated: Any) -> TransReid:
    """The model in float64."""
    sizes = variant.sizes
    given = {"image_size": sizes.image_size, "stride": sizes.stride, **variant.stated, **stated}
    model = load_model(path, device="cpu", precision="fp32", **given)
    assert isinstance(model, TransReid)
    return model.double()


def references_of(variant: Variant, state: dict[str, Tensor], images: Tensor, cameras: list[int | None]) -> list[Any]:
    settings = reference.Settings(
        heads=variant.heads, scale=variant.scale, stride=variant.sizes.stride, **variant.settings
    )
    wide = {key: tensor.double() for key, tensor in state.items()}
    return [
        reference.run(wide, (image.double() / 255 - 0.5) / 0.5, settings, camera)
        for image, camera in zip(images, cameras, strict=True)
    ]


def wanted_map(name: str, of: reference.Reference, score: Tensor) -> Tensor:
    method, _, layer = name.partition("/")
    if layer:
        return reference.cam(of, method, layer, score)
    return reference.RELEVANCE[method](of, score) if method in reference.RELEVANCE else of.values[method]


def check_maps(maps: dict[str, Tensor], row: int, of: reference.Reference, score: Tensor) -> set[str]:
    """The names of the maps that are not all zero."""
    shown = set()
    for name, found in maps.items():
        wanted = wanted_map(name, of, score).detach()
        shown |= {name} if wanted.any() else set()
        torch.testing.assert_close(found[row].flatten().double(), wanted, rtol=1e-5, atol=1e-9, msg=name)
    return shown


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_equals_the_transcription(tmp_path: Path, name: str) -> None:
    variant, path = VARIANTS[name], tmp_path / "m.pth"
    state = tiny_checkpoint(path, variant.sizes, variant.prefix, variant.half)
    images, model = images_of(variant.sizes), exact_model(path, variant)
    cameras = torch.tensor([0, 5, 2]) if variant.sizes.cameras else None
    rows: list[int | None] = [None] * 3 if cameras is None else cameras.tolist()
    references = references_of(variant, state, images, rows)
    out = model.forward_with_attention(images, cameras)
    after = exact_model(path, variant, neck_feat="after")(images, cameras)
    jpm = variant.sizes.jpm
    names = [*WHOLE, *(LOCAL if jpm else [])]
    # The cosine of each feature to the next image's.
    nearby = torch.stack([references[(row + 1) % 3].values["features_before"] for row in range(3)]).detach()
    nearby = torch.nn.functional.normalize(nearby, dim=1)
    alike = extract_maps(model, images, names, similarity_target(nearby), cameras=cameras)
    plain = extract_maps(model, images, [*WHOLE, *LOCAL[:1]] if jpm else WHOLE, cameras=cameras)
    every = extract_maps(model, images, names, head="all", cameras=cameras) if jpm else plain
    shown = set[str]()
    assert out["features"].shape == (3, model.config.feature_dim)
    for row, one in enumerate(references):
        torch.testing.assert_close(out["features"][row], one.values["features_before"], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(after[row], one.values["features_after"], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(out["logits"][0][row], one.values["logits"], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(sum(out["logits"])[row], one.values["all"], rtol=1e-7, atol=1e-8)
        predicted = int(one.values["logits"].argmax())
        assert plain.predicted[row] == every.predicted[row] == predicted
        shown |= check_maps(plain.maps, row, one, one.values["logits"][predicted])
        shown |= check_maps(every.maps, row, one, one.values["all"][predicted])
        feature = one.values["features_before"]
        shown |= check_maps(alike.maps, row, one, feature @ nearby[row] / feature.norm())
    assert shown == set(names)


@pytest.mark.parametrize(
    ("size", "stride", "jpm"),
    [((256, 128), 16, True), ((256, 128), 12, True), ((256, 128), 11, True), ((256, 256), 12, True),
     ((384, 128), 12, False), ((256, 256), 16, False)],
)  # fmt: skip
def test_the_published_layouts_follow_from_the_tensors(
    tmp_path: Path, size: tuple[int, int], stride: int, jpm: bool
) -> None:
    sizes = Sizes(image_size=size, stride=stride, depth=2, jpm=jpm, cameras=0)
    state = tiny_checkpoint(tmp_path / "m.pth", sizes)
    model = load_model(tmp_path / "m.pth", device="cpu", precision="fp32")
    assert model.config.image_size == size and model.config.cell == (16, stride)
    images = images_of(sizes, 1)
    (wanted,) = references_of(Variant(sizes=sizes), state, images, [None])
    found = model(images)[0].double()
    torch.testing.assert_close(found, wanted.values["features_before"].detach(), rtol=1e-4, atol=1e-5)


def test_the_stripes_of_the_published_settings() -> None:
    """Worked by hand from the formulas: 16x8 patches, and 21x10 of stride 12, where patches 3 and 108 are in none."""
    four = stripes(128, Shuffle())
    assert four[0][:6] == [4, 68, 5, 69, 6, 70] and sorted(chain(*four)) == list(range(128))
    assert {patch // 8 for patch in four[0]} == {0, 1, 2, 8, 9, 10}  # no part of a body
    assert set(range(210)) - set(chain(*stripes(210, Shuffle()))) == {3, 108}
    assert stripes(9, Shuffle()) == [[4, 0], [5, 1], [6, 2], [7, 3]]  # then 8, and 2 again to make ten
    assert stripes(9, Shuffle(re_arrange=False)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_patches_of_no_stripe_get_no_local_map(tmp_path: Path) -> None:
    variant = VARIANTS["stride 12"]
    tiny_checkpoint(tmp_path / "m.pth", variant.sizes)
    model = exact_model(tmp_path / "m.pth", variant)
    unused = sorted(set(range(10)) - set(chain(*model.config.stripes())))
    assert len(unused) == 2
    maps = extract_maps(model, images_of(variant.sizes), LOCAL, "feature", cameras="mean").maps
    for name in ("local_attention", "hirescam/local_norm"):
        flat = maps[name].flatten(1)
        assert (flat[:, unused] == 0).all() and (flat != 0).any()


def test_the_mean_camera_and_none(tmp_path: Path) -> None:
    state = tiny_checkpoint(tmp_path / "m.pth", Sizes())
    images, model = images_of(Sizes()), exact_model(tmp_path / "m.pth", Variant())
    found = model(images, "mean")
    for row, one in enumerate(references_of(Variant(), state, images, [None] * 3)):
        torch.testing.assert_close(found[row], one.values["features_before"])
    torch.testing.assert_close(model(images, 4), model(images, torch.tensor([4, 4, 4])))
    assert model.camera_fallbacks == ("mean",) and model.camera_rows == 6
    assert "approximation" in model.config.facts["cameras"]


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (None, "camera embedding of 6 rows: give cameras=, numbers from 0 to 5, or 'mean'$"),
        ("none", "cameras are 'none'; give numbers from 0 to 5, or 'mean'$"),
        (6, "camera 6 was given, and the camera embedding has 6 rows"),
        (torch.tensor([0, -1, 2]), "camera -1 was given, and the camera embedding has 6 rows"),
        (torch.tensor([0, 1]), "2 cameras were given for 3 images"),
    ],
)
def test_wrong_cameras(tmp_path: Path, cameras: Any, message: str) -> None:
    tiny_checkpoint(tmp_path / "m.pth", Sizes())
    model = exact_model(tmp_path / "m.pth", Variant())
    with pytest.raises(ModelError, match=message):
        model(images_of(Sizes()), cameras)


def test_cameras_for_a_model_without_an_embedding(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", NO_JPM)
    model = exact_model(tmp_path / "m.pth", VARIANTS["neither"])
    with pytest.raises(ModelError, match="this model uses no camera embedding"):
        model(images_of(NO_JPM), 0)
    assert model(images_of(NO_JPM)).shape == (3, 128)


def test_layers_that_a_score_does_not_see_are_refused_by_name(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", Sizes(cameras=0))
    model = exact_model(tmp_path / "m.pth", Variant(sizes=Sizes(cameras=0)))
    images = images_of(Sizes())
    for head in (None, "global"):
        with pytest.raises(
            CamError, match=r"predicted does not pass through layer local_norm except with the head all"
        ):
            extract_maps(model, images, ["hirescam/local_norm"], head=head)
    for layer in ("vit_last", "vit_proj", "bottleneck", "classifier"):
        with pytest.raises(CamError, match=f"no score of this model sees a patch at {layer}.*take gradcam/vit_norm"):
            extract_maps(model, images, [f"gradcam/{layer}"])
    assert map_names(model, "hirescam", "all") == ["hirescam/vit_norm"]
    assert map_names(model, "hirescam", "all", head="all") == ["hirescam/vit_norm", "hirescam/local_norm"]
    assert map_names(model, "hirescam", "all", "similarity") == ["hirescam/vit_norm", "hirescam/local_norm"]
    np.testing.assert_array_equal(GradCAM(model, model.b1[0].norm1)(images), GradCAM(model, "vit_norm")(images))
    with pytest.raises(ModelError, match=r"the head 'both' is none of this model's: global, all$"):
        extract_maps(model, images, ["cls_attention"], head="both")


def test_without_jpm_there_is_no_local_map_and_one_head(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", NO_JPM)
    model = exact_model(tmp_path / "m.pth", VARIANTS["neither"])
    for name in ("local_attention", "gradcam/local_norm"):
        with pytest.raises(CamError, match=f"unknown map '{name}'"):
            extract_maps(model, images_of(NO_JPM), [name])
    with pytest.raises(ModelError, match=r"the head 'all' is none of this model's: global$"):
        extract_maps(model, images_of(NO_JPM), ["cls_attention"], head="all")
    assert model.config.default_maps == ("cls_attention", "hirescam/vit_norm", "gradcam++/vit_norm")
    of_jpm = {"shift_num", "shuffle_group", "devide_length", "re_arrange"}
    assert model.config.without_effect == {"sie_coe", "cosine_scale", *of_jpm}


def test_the_block_of_imagenet_is_not_read(tmp_path: Path) -> None:
    """With JPM the trained last blocks are b1 and b2."""
    state = tiny_state(Sizes())
    changed = {key: t + 1 if key.startswith(("base.blocks.2.", "base.norm.", "base.fc.")) else t
               for key, t in state.items()}  # fmt: skip
    torch.save(state, tmp_path / "a.pth")
    torch.save(changed, tmp_path / "b.pth")
    a, b = (extract_maps(exact_model(tmp_path / name, Variant()), images_of(Sizes()), [*WHOLE, *LOCAL], "feature",
                         cameras="mean") for name in ("a.pth", "b.pth"))  # fmt: skip
    assert torch.equal(a.features, b.features) and all(torch.equal(a.maps[name], b.maps[name]) for name in a.maps)


Change = Callable[[dict[str, Tensor]], None]


def one_more(key: str) -> Change:
    return lambda state: state.update({key: torch.zeros(1)})


def one_less(key: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        del state[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_more("base.dist_token"), "unexpected base.dist_token"),
        (one_more("b3.0.norm1.weight"), "unexpected b3.0.norm1.weight"),
        (one_more("base.blocks.2.gamma"), "unexpected base.blocks.2.gamma"),
        (one_more("b1.0.gamma"), "the tensor base.blocks.2.gamma is missing"),
        (one_less("b2.0.attn.qkv.bias"), "missing b2.0.attn.qkv.bias"),
        (one_less("classifier_3.weight"), "missing classifier_3.weight"),
        (one_less("base.blocks.1.norm1.bias"), "missing base.blocks.1.norm1.bias"),
        (one_less("base.blocks.2.norm1.bias"), "the tensor base.blocks.2.norm1.bias is missing"),
        (one_less("base.norm.weight"), "the tensor base.norm.weight is missing"),
        (one_less("base.patch_embed.proj.weight"), "the tensor base.patch_embed.proj.weight is missing"),
        (
            lambda state: state.update({"base.sie_embed": torch.zeros(160, 1, 128)}),
            r"base.sie_embed has 160 rows, of views or of cameras and views together \(MODEL.SIE_VIEW\)",
        ),
    ],
)
def test_a_key_more_or_less_is_a_refusal_that_names_it(tmp_path: Path, change: Change, message: str) -> None:
    state, path = tiny_state(Sizes()), tmp_path / "m.pth"
    change(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=rf"m\.pth: .*{message}"):
        load_model(path, device="cpu", precision="fp32", image_size=(64, 32), stride=16)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"jpm": False}, "jpm is False in the configuration, but the checkpoint's tensors say True"),
        ({"sie_camera": False}, "sie_camera is False in the configuration"),
        ({"sie_view": True}, "base.sie_embed has 6 rows, of views or of cameras and views together"),
        ({"id_loss_type": "triplet"}, "id_loss_type 'triplet' is not one of softmax, arcface, cosface"),
        ({"transformer_type": "swin_base"}, "transformer_type 'swin_base' is not one of vit_base_patch16_224"),
        ({"transformer_type": "vit_small_patch16_224_TransReID"}, "the checkpoint has a bias of queries"),
        ({"devide_length": 3}, "devide_length is 3: 8 patches divided by it do not fill 4 stripes"),
        ({"shuffle_group": 5}, "shuffle_group is 5, and 8 patches do not divide into as many rows"),
        ({"shift_num": 9}, "shift_num is 9, and there are 8 patches"),
        ({"vision_heads": 3}, "vision_width 128 does not divide into vision_heads 3"),
        ({"shift": 5}, "the configuration has no field 'shift'; did you mean shift_num"),
    ],
)
def test_what_is_stated_must_fit(tmp_path: Path, stated: dict[str, Any], message: str) -> None:
    tiny_checkpoint(tmp_path / "m.pth", Sizes())
    with pytest.raises(ModelError, match=rf"m\.pth: .*{message}"):
        load_model(tmp_path / "m.pth", device="cpu", image_size=(64, 32), stride=16, **stated)


def test_an_embedding_that_is_stated_must_be_there(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", NO_JPM)
    for field_name in ("sie_camera", "sie_view", "jpm"):
        with pytest.raises(ModelError, match=f"{field_name} is True in the configuration, but .* tensors say False"):
            load_model(tmp_path / "m.pth", device="cpu", image_size=(64, 32), stride=16, **{field_name: True})


def test_the_settings_of_the_training_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_checkpoint(tmp_path / "m.pth", Sizes(cameras=8))
    (tmp_path / "m.yml").write_text(
        "MODEL: {TRANSFORMER_TYPE: deit_base_patch16_224_TransReID, SIE_CAMERA: True, SIE_COE: 2.0, JPM: True,\n"
        "  SHIFT_NUM: 3, STRIDE_SIZE: [16, 16], ID_LOSS_TYPE: softmax}\nINPUT: {SIZE_TEST: [64, 32]}\n"
        "TEST: {NECK_FEAT: after}\n"
    )
    with caplog.at_level(logging.WARNING):
        info = inspect_checkpoint(tmp_path / "m.pth", settings=tmp_path / "m.yml")
    config = info.config.to_dict()
    assert info.family == "TransReID" and config["family"] == "transreid"
    assert (config["sie_coe"], config["shift_num"], config["neck_feat"], config["jpm"]) == (2.0, 3, "after", True)
    assert config["transformer_type"] == "deit_base_patch16_224_TransReID"
    assert info.config.facts["cameras"].startswith("8 rows, taken as cameras and not as views, coefficient 2;")
    assert info.config.facts["JPM"] == "4 stripes of 2 patches, shift 3, 2 groups"
    assert type(info.config).from_fields(type(info.config).fields_from(config)) == info.config


# The recorded results of the authors' code.


def recorded(golden: Path) -> tuple[Path, dict[str, NDArray], Tensor]:
    images = torch.from_numpy(np.load(golden / "preprocessed.npz")["images"])
    return golden / "transreid_jpm_sie_s16.pth", dict(np.load(golden / "transreid_jpm_sie_s16.npz")), images


def worst(found: Tensor, wanted: NDArray) -> float:
    """The largest difference over the rows, each relative to its own largest value; rows of zeros must be zero."""
    found, recorded_rows = found.double().flatten(1), torch.from_numpy(wanted).flatten(1)
    largest = recorded_rows.abs().amax(dim=1)
    assert (found[largest == 0] == 0).all()
    some = largest > 0
    return float(((found - recorded_rows).abs().amax(dim=1)[some] / largest[some]).max())


def test_outputs_in_float32(golden: Path) -> None:
    path, wanted, images = recorded(golden)
    cameras = torch.from_numpy(wanted["camid"])
    model = load_model(path, device="cpu", precision="fp32")
    assert isinstance(model, TransReid)
    out = model.forward_with_attention(images, cameras)
    after = load_model(path, device="cpu", precision="fp32", neck_feat="after")
    found = {
        "features_before": out["features"],
        "features_after": after(images, cameras),
        "features_before_camera_plus_1": model(images, (cameras + 1) % 6),
        "logits": out["logits"][0],
        "cls_attention": out["cls_attention"],
        "local_attention": out["local_attention"],
        "cls_attention_heads": model.head(model.encode(images, cameras)).attention_heads,
    }
    for name, tensor in found.items():
        assert worst(tensor, wanted[name]) < 1e-4, name
    for logits, recorded_logits in zip(out["logits"][1:], wanted["logits_local"], strict=True):
        assert worst(logits, recorded_logits) < 1e-4
    np.testing.assert_array_equal(list(chain(*model.config.stripes())), wanted["patch_order"])


@pytest.mark.parametrize("score", ["", "_all", "_similarity"])
def test_maps_in_float32(golden: Path, score: str) -> None:
    """The similarity is to image 1 for even rows, to image 0 for odd rows."""
    path, wanted, images = recorded(golden)
    cameras, model = torch.from_numpy(wanted["camid"]), load_model(path, device="cpu", precision="fp32")
    references = torch.nn.functional.normalize(torch.from_numpy(wanted["features_before"]).float(), dim=1)
    target = similarity_target(references[[1, 0] * 4]) if score == "_similarity" else "predicted"
    names = [*WHOLE, *(LOCAL[1:] if score else [])]
    names = [name for name in names if column_of(name) + score in wanted]
    result = extract_maps(model, images, names, target, head="all" if score == "_all" else None, cameras=cameras)
    np.testing.assert_array_equal(result.predicted.numpy(), wanted["predicted"])
    assert len(names) >= 6
    for name in names:
        assert worst(result.maps[name], wanted[column_of(name) + score]) < 1e-3, name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_maps_in_low_precision(golden: Path, precision: str) -> None:
    path, wanted, images = recorded(golden)
    model = load_model(path, device="cpu", precision=precision)
    cameras = torch.from_numpy(wanted["camid"])
    result = extract_maps(model, images, [*WHOLE, *LOCAL], head="all", cameras=cameras)
    for name, maps in result.maps.items():
        own = column_of(name) if column_of(name) in ("cls_attention", "rollout", "local_attention") else ""
        pairs = zip(maps.double().flatten(1).numpy(), wanted[own or f"{column_of(name)}_all"].reshape(8, -1),
                    strict=True)  # fmt: skip
        r = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs if a.any() and b.any()]
        assert len(r) >= 4 and np.median(r) >= 0.98, (name, r)
