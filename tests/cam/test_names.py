"""The syntax of map names: what parses, to what, and what a wrong name is answered with."""

from __future__ import annotations

import pytest

from cam import CamError
from cam.names import MapName, column_of, parse_names, title_of


@pytest.mark.parametrize(
    ("text", "parsed", "column"),
    [
        ("gradcam++/mim", MapName("gradcam++", "mim"), "gradcampp_mim"),
        ("gradcam/conv5", MapName("gradcam", "conv5"), "gradcam_conv5"),
        ("hirescam/layer4.2", MapName("hirescam", "layer4.2"), "hirescam_layer4_2"),
        ("gradcam/a_layer_of_any_model", MapName("gradcam", "a_layer_of_any_model"), "gradcam_a_layer_of_any_model"),
        ("rollout", MapName("rollout"), "rollout"),
        ("mim_attention", MapName("mim_attention"), "mim_attention"),
        ("mim_attention:a-Bag", MapName("mim_attention", prompt="a-Bag"), "mim_attention_a_bag"),
        ("local_attention", MapName("local_attention"), "local_attention"),
        ("cross_attention:caption", MapName("cross_attention", prompt="caption"), "cross_attention_caption"),
    ],
)
def test_names_of_any_model_parse(text: str, parsed: MapName, column: str) -> None:
    assert MapName.parse(text) == parsed and str(parsed) == text
    assert parsed.column == column == column_of(text)


def test_which_maps_are_the_models_own_and_which_follow_the_target() -> None:
    names = parse_names(["gradcam/x", "chefer", "rollout", "cls_attention"])
    assert [name.is_native for name in names] == [False, False, False, True]
    assert [name.needs_target for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("gradcamm/mim", "gradcam/mim"),
        ("grad-cam/vit_norm", "gradcam/vit_norm"),
        ("GradCAM++/mim", "gradcam++/mim"),
        ("gradcam", "gradcam/<layer>"),
        ("mim_attention:", "mim_attention"),
        ("mim-attention", "mim_attention"),
    ],
)
def test_a_misspelt_method_is_answered_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(CamError) as error:
        MapName.parse(text)
    assert str(error.value).startswith(f"unknown map {text!r}; did you mean {near}? Maps are <method>/<layer> with ")


@pytest.mark.parametrize(
    "text", ["", "/", "gradcam/", "gradcam/a b", "gradcam/../x", "a/b", "mim_attention:a:b", "1st"]
)
def test_wrong_syntax_is_refused(text: str) -> None:
    with pytest.raises(CamError, match="unknown map"):
        MapName.parse(text)


def test_each_map_counts_once_and_columns_are_distinct() -> None:
    assert [str(name) for name in parse_names(["b:x", "a", "b:x"])] == ["b:x", "a"]
    with pytest.raises(CamError, match="the maps a:b-c and a:b_c would share the column a_b_c"):
        parse_names(["a:b-c", "a:b_c"])


def test_a_head_is_a_name_to_read_by_and_is_never_computed_alone() -> None:
    name = MapName.parse("mim_attention#11")
    assert (name.method, name.head, str(name)) == ("mim_attention", 11, "mim_attention#11")
    assert name.is_attention and not name.needs_target and name.column == "mim_attention_head11"
    assert title_of("mim_attention#11") == "mim_attention head 11" and title_of("gradcam++/mim") == "gradcam++/mim"
    for text in ("mim_attention#", "mim_attention#all", "mim_attention#01", "gradcam#1", "gradcam/mim#1", "a:b#1"):
        with pytest.raises(CamError, match="unknown map"):
            MapName.parse(text)
    with pytest.raises(CamError, match=r"^mim_attention#3 is a single head: .*--attention-heads all"):
        parse_names(["mim_attention", "mim_attention#3"])
