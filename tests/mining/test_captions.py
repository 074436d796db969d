"""Captions of images, from the shards' JSON to maps, rows and faithfulness; and models without classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cam import extract_maps
from cam.errors import CamError
from jobs.errors import UserError
from jobs.faithfulness.measure import measure_faithfulness
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.mining.config import MineConfig, build_config
from jobs.mining.mine import mine
from jobs.runs.query import RowSelection
from jobs.runs.run import open_run
from promptsg_core import load_model
from promptsg_core.families.irra import Irra
from promptsg_core.preprocess import decode_image, resize_image
from promptsg_core.tokenise import make_prompt
from tests.support.shard_files import textured_image, write_tar
from tests.support.tiny_irra import tiny_irra
from tests.support.tiny_osnet import tiny_osnet

SIZE = {"image_size": (96, 32)}
CAPTIONS = ("a man in a red coat", None, "a woman with a white bag")
MAPS = ("cls_attention", "patch_text:caption", "cross_attention:caption", "hirescam/vit_norm")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a classifier, and three images, of which the second has no caption."""
    folder = tmp_path_factory.mktemp("captions")
    torch.save({"model": tiny_irra(classes=0)}, folder / "m.pth")
    members: list[tuple[str, bytes]] = []
    for number, caption in enumerate(CAPTIONS):
        key = f"000{number}_c1s1_00000{number}_00"
        note = {"pid": number} if caption is None else {"pid": number, "caption": caption}
        members += [(f"{key}.jpg", textured_image(number)), (f"{key}.json", json.dumps(note).encode())]
    write_tar(folder / "test-0.tar", members)
    write_tar(folder / "bare" / "test-0.tar", members[::2])
    return folder


def config(inputs: Path, output: Path, **options: object) -> MineConfig:
    values = {"shards": str(inputs / "*.tar"), "checkpoint": inputs / "m.pth", "output": output, "device": "cpu",
              "precision": "fp32", "workers": 0, "max_failed_fraction": 0.5, "target": "text", "maps": MAPS,
              **SIZE, **options}  # fmt: skip
    return build_config(None, values)


@pytest.fixture(scope="module")
def mined(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mined") / "RUN"
    assert mine(config(inputs, output)).exit_status == 0
    return output


def test_each_image_is_explained_by_its_own_caption(inputs: Path, mined: Path) -> None:
    run = open_run(mined)
    rows = pq.read_table(run.layout.shard_metadata("test-0")).to_pylist()
    assert [(row["status"], row["h5_row"]) for row in rows] == [("ok", 0), ("no_caption", None), ("ok", 1)]
    assert rows[1]["error"] == "its sample has no caption: a text `caption` in its JSON"
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32", **SIZE)
    images = torch.stack([resize_image(decode_image(textured_image(n)), (96, 32)) for n in (0, 2)])
    wanted = extract_maps(model, images, MAPS, "text", captions=[CAPTIONS[0], CAPTIONS[2]])
    np.testing.assert_allclose([rows[0]["score"], rows[2]["score"]], wanted.score, rtol=1e-5)
    table = pq.read_table(run.layout.shard_metadata("test-0")).filter([True, False, True])
    for name in MAPS:
        np.testing.assert_allclose(run.maps_of(name, table), wanted.maps[name], rtol=1e-4, atol=1e-6)


def test_without_classes_nothing_is_predicted(mined: Path) -> None:
    rows = pq.read_table(open_run(mined).layout.shard_metadata("test-0")).to_pylist()
    assert [(row["predicted"], row["probability"]) for row in rows] == [(None, None)] * 3
    assert rows[0]["score"] is not None


def test_faithfulness_reads_the_captions_again(inputs: Path, mined: Path, tmp_path: Path) -> None:
    found = measure_faithfulness(
        FaithfulnessConfig(
            run=mined, checkpoint=inputs / "m.pth", output=tmp_path / "F", device="cpu", steps=4, random=1,
            sanity_images=2, selection=RowSelection(),
        )
    ).measured  # fmt: skip
    # Nothing is removed at the first step of deletion, where the score is the one that was mined.
    scores = pq.read_table(open_run(mined).layout.shard_metadata("test-0"))["score"].drop_null().to_numpy()
    assert found.title == "likeness to the text" and found.curves.shape[0] == 2
    first = found.curves[:, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(np.sort(first), np.sort(scores), rtol=1e-4)
    same = {one.map: one.values for one in found.correlations if one.random == "nothing"}
    assert same.keys() == set(MAPS) and all((values > 0.999).all() for values in same.values())


@pytest.mark.parametrize(
    ("options", "what"),
    [({"maps": ("cls_attention",)}, "the target text"), ({"target": "feature"}, "the map patch_text:caption")],
)
def test_shards_without_captions_are_refused_before_any_work(
    inputs: Path, tmp_path: Path, options: dict[str, object], what: str
) -> None:
    asked = config(inputs, tmp_path / "RUN", shards=str(inputs / "bare/*.tar"), **options)
    with pytest.raises(UserError, match=f"^{what} needs a caption of each image, and the samples of .*test-0.tar have"):
        mine(asked)
    assert not (tmp_path / "RUN").exists()


def test_a_prompt_serves_images_without_captions(inputs: Path, tmp_path: Path) -> None:
    asked = config(inputs, tmp_path / "RUN", shards=str(inputs / "bare/*.tar"), maps=("hirescam/vit_norm",),
                   prompts={"coat": "a red coat"})  # fmt: skip
    assert mine(asked).exit_status == 0
    assert open_run(tmp_path / "RUN").maps == ("hirescam/vit_norm", "patch_text:coat", "cross_attention:coat")


def test_a_target_that_no_layer_leads_to_is_refused_before_any_work(inputs: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save(tiny_osnet(), file)
    (tmp_path / "osnet.pth").write_bytes(file.getvalue())
    asked = config(inputs, tmp_path / "RUN", checkpoint=tmp_path / "osnet.pth", maps=("activation",), image_size=None)
    message = "does not compute the text that the target text starts from; its targets are predicted, label, feature"
    with pytest.raises(CamError, match=message):
        mine(asked)


def heard(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The captions that each call of `encode` gets from now on."""
    given: list[object] = []
    encode = Irra.encode

    def listening(self: Irra, images: torch.Tensor, cameras: Any = None, captions: Any = None) -> Any:
        given.append(captions)
        return encode(self, images, cameras, captions)

    monkeypatch.setattr(Irra, "encode", listening)
    return given


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({"target": "feature", "maps": ("cls_attention",)}, False),
        ({"target": "text", "maps": ("hirescam/vit_norm",), "prompts": {"coat": "a red coat"}}, False),
        ({"target": "feature", "maps": ("cls_attention",), "prompts": {"coat": "a red coat", "bag": "bag"}}, False),
        ({"target": "feature", "maps": ("cls_attention",), "prompts": {"bag": "bag"}}, True),
        ({"target": "feature", "maps": ("patch_text:caption",), "prompts": {"coat": "a red coat"}}, True),
    ],
)
def test_captions_are_read_where_something_asks_for_them_and_a_prompt_wins(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], read: bool
) -> None:
    given = heard(monkeypatch)
    assert mine(config(inputs, tmp_path / "RUN", **options)).exit_status == 0
    assert given == [list(CAPTIONS) if read else None]
    given.clear()
    asked = FaithfulnessConfig(
        run=tmp_path / "RUN", checkpoint=inputs / "m.pth", output=tmp_path / "F", device="cpu", steps=2, random=1,
        sanity_images=2, selection=RowSelection(),
    )  # fmt: skip
    measure_faithfulness(asked)
    assert any(captions is not None for captions in given) == read
    rows = pq.read_table(open_run(tmp_path / "RUN").layout.shard_metadata("test-0")).to_pylist()
    if options["target"] == "text":
        model = load_model(inputs / "m.pth", device="cpu", precision="fp32", **SIZE)
        model.add_prompts({"coat": make_prompt("a red coat")})
        images = torch.stack([resize_image(decode_image(textured_image(n)), (96, 32)) for n in range(3)])
        wanted = extract_maps(model, images, ["cls_attention"], "text").score
        np.testing.assert_allclose([row["score"] for row in rows], wanted, rtol=1e-5)


TWO = {"coat": "a red coat", "bag": "a white bag"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ("cls_attention",), "prompts": TWO}, "^the target text: the prompts coat, bag were given: which is"),
        (
            {"maps": ("cls_attention",), "target": "feature", "prompts": {**TWO, "man": "man"}},
            "^the map cross_attention:man: the prompts coat, bag were given: which is meant",
        ),
    ],
)
def test_two_texts_of_which_none_is_meant_are_refused_before_any_work(
    inputs: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mine(config(inputs, tmp_path / "RUN", shards=str(inputs / "bare/*.tar"), **options))
    assert not (tmp_path / "RUN").exists()
    assert mine(config(inputs, tmp_path / "RUN", **options)).exit_status == 0  # the captions are the texts


def test_heads_of_a_model_without_attention_are_refused_before_any_work(inputs: Path, tmp_path: Path) -> None:
    torch.save(tiny_osnet(), tmp_path / "osnet.pth")
    asked = config(inputs, tmp_path / "RUN", checkpoint=tmp_path / "osnet.pth", maps=("activation",), image_size=None,
                   target="feature", attention_heads="all")  # fmt: skip
    with pytest.raises(UserError, match="--attention-heads is all, but OSNet has no attention"):
        mine(asked)
    assert not (tmp_path / "RUN").exists()
