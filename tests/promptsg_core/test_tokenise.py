"""Prompts: the built-in ids against CLIP's own tokenizer, free text, and names."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from promptsg_core.errors import ModelError
from promptsg_core.prompts import PROMPTS
from promptsg_core.tokenise import _tokenizer, make_prompt, parse_prompts, slug_of
from tests.promptsg_core.test_model import build
from tests.support.tiny import random_images, tiny_state

needs_vocabulary = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="needs open_clip_torch (extra `prompts`)"
)


@needs_vocabulary
@pytest.mark.parametrize("mode", list(PROMPTS))
def test_the_built_in_ids_are_clips(mode: str) -> None:
    import open_clip.tokenizer as open_clip_tokenizer

    prompt = PROMPTS[mode]
    padded = open_clip_tokenizer.SimpleTokenizer()([prompt.text])[0].tolist()
    assert padded == [*prompt.tokens, *[0] * (77 - len(prompt.tokens))]
    assert prompt.slot is None or prompt.tokens[prompt.slot] == 343


@needs_vocabulary
def test_free_text() -> None:
    prompt = make_prompt("A photo of a person  carrying a backpack")
    assert prompt.slot is None and prompt.tokens[:7] == (49406, 320, 1125, 539, 320, 2533, 9920)
    with_x = make_prompt("A photo of X, a tall person")
    assert with_x.slot == 4 and with_x.tokens[4] == 343
    with pytest.raises(ModelError, match="at most one X"):
        make_prompt("X and X")
    with pytest.raises(ModelError, match="CLIP reads 77"):
        make_prompt("person " * 80)
    assert make_prompt("an X-ray").slot == 2  # a word of its own to the tokenizer, too


def test_the_built_in_templates_need_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip.tokenizer", None)
    _tokenizer.cache_clear()
    assert make_prompt("a photo of a X person") == PROMPTS["composed"]
    with pytest.raises(ModelError, match=r"pip install '\.\[prompts\]'"):
        make_prompt("a red coat")
    _tokenizer.cache_clear()


def test_names() -> None:
    assert parse_prompts(("A red Coat!", "bag=a person with a bag")) == {
        "a_red_coat": "A red Coat!",
        "bag": "a person with a bag",
    }
    assert slug_of("  ") == "prompt" and len(slug_of("long " * 40)) <= 48
    with pytest.raises(ModelError, match="two prompts are called bag"):
        parse_prompts(("bag=a", "bag=b"))


def test_prompts_of_the_same_tokens_with_and_without_a_person_are_kept_apart() -> None:
    """CLIP knows no capitals: "an X" and "an x" differ only in the slot."""
    from dataclasses import replace

    config, state = tiny_state()
    model = build(config, state)
    v = model.encode(random_images(config, 3)).v
    with torch.no_grad():
        own = model.encode_text(v)
        plain = model.encode_text(v, replace(PROMPTS["composed"], slot=None))
        assert own.shape == (3, 32) and plain.shape == (1, 32)
        torch.testing.assert_close(model.encode_text(v), own)


@pytest.mark.parametrize("mode", ["composed", "simplified"])
def test_a_prompts_attention_is_the_models_own_under_that_template(mode: str) -> None:
    """Asked with the other built-in template, a model attends as one whose own template it is."""
    from cam import extract_maps

    other = {"composed": "simplified", "simplified": "composed"}[mode]
    config, state = tiny_state(prompt_mode=mode)
    model = build(config, state)
    model.add_prompts({"other": PROMPTS[other]})
    images = random_images(config, 3)
    found = extract_maps(model, images, ["mim_attention", "mim_attention:other"]).maps
    twin = build(*tiny_state(prompt_mode=other))
    torch.testing.assert_close(
        found["mim_attention:other"], extract_maps(twin, images, ["mim_attention"]).maps["mim_attention"]
    )
    assert not torch.allclose(found["mim_attention"], found["mim_attention:other"])
