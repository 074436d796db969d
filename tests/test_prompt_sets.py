"""The ready lists of prompts are those of the published attribute labels, and `mine` takes their texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.mining.config import build_config
from jobs.prompt_sets import PROMPT_SETS, probes_among, prompts_of, read_prompt_set

UP = {"market": "black white red purple yellow gray blue green", "duke": "black white red purple gray blue green brown"}
DOWN = {
    "market": "black white pink purple yellow gray blue green brown",
    "duke": "black white red gray blue green brown",
}
OTHERS = {
    "market": "gender hair up down clothes hat backpack bag handbag age",
    "duke": "gender top boots hat backpack bag handbag shoes",
}


@pytest.mark.parametrize(("name", "count"), [("market", 27), ("duke", 23)])
def test_every_label_of_the_published_files_has_prompts(name: str, count: int) -> None:
    probes = read_prompt_set(f"{name}-attributes")
    labels = {f"up{colour}" for colour in UP[name].split()} | {f"down{colour}" for colour in DOWN[name].split()}
    labels |= set(OTHERS[name].split())
    assert {probe.label for probe in probes.values()} == labels and len(labels) == count
    pairs = [(probe.label, probe.value) for probe in probes.values()]
    assert len(set(pairs)) == len(pairs) and len({probe.text for probe in probes.values()}) == len(probes)
    values = {label: sorted(value for other, value in pairs if other == label) for label in labels}
    assert all(found in ([2], [1, 2], [1, 2, 3, 4]) for found in values.values())
    parts = {probe.label: probe.part for probe in probes.values()}
    assert parts["hat"] == "head" and parts["backpack"] == "upper" and parts["downblack"] == "lower"
    assert parts["gender"] is None and parts["upblack"] == "upper"


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_every_prompt_can_be_read_by_clip(name: str) -> None:
    pytest.importorskip("open_clip", reason="needs open_clip_torch")
    from promptsg_core.tokenise import make_prompt

    for probe in read_prompt_set(name).values():
        prompt = make_prompt(probe.text)
        assert prompt.slot is None and len(prompt.tokens) <= 32  # the same for all images: encoded once


def test_a_list_is_added_to_the_users_own_prompts(tmp_path: Path) -> None:
    options = {"shards": ("a.tar",), "checkpoint": tmp_path / "m.pth", "output": tmp_path / "RUN"}
    config = build_config(None, {**options, "prompts": ("red=X in red",), "prompt_set": ("duke-attributes",)})
    assert config.prompts["red"] == "X in red" and config.prompts["boots"] == "a photo of a person wearing boots"
    assert len(config.prompts) == 1 + len(read_prompt_set("duke-attributes"))
    (tmp_path / "RUN.yaml").write_text("prompt_set: duke-attributes\nprompts: {red: X in red}\n")
    assert build_config(tmp_path / "RUN.yaml", options).prompts == config.prompts
    both = build_config(None, {**options, "prompt_set": PROMPT_SETS}).prompts  # they share names, and then texts
    assert both.keys() == {*read_prompt_set(PROMPT_SETS[0]), *read_prompt_set(PROMPT_SETS[1])}
    with pytest.raises(UserError, match="two prompts are called hat: 'X' and"):
        build_config(None, {**options, "prompts": ("hat=X",), "prompt_set": ("duke-attributes",)})
    with pytest.raises(UserError, match=r"no list of prompts 'market'.*market-attributes"):
        build_config(None, options, ["prompt_set=market"])
    with pytest.raises(UserError, match="prompt_set is 3"):
        build_config(None, options, ["prompt_set=3"])


def test_the_list_of_a_run_is_known_by_its_texts() -> None:
    prompts = prompts_of(["duke-attributes"], {"hat": "a photo of a person wearing a hat", "own": "X"})
    assert probes_among(prompts) == read_prompt_set("duke-attributes")
    assert set(probes_among({"hat": prompts["hat"], "bag": "another text"})) == {"hat"}
    assert probes_among({"own": "X"}) == {}
