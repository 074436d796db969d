"""The target text of a model that chooses a text for each image: the choice of the whole image counts throughout."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from cam.errors import CamError
from cam.targets import text_target
from jobs.faithfulness.randomise import cascade
from jobs.faithfulness.score import ByText
from jobs.mining.camera_rows.source import NO_CAMERAS, HowExplained
from promptsg_core import load_model
from promptsg_core.families.clipreid import ClipReid
from tests.support.tiny_clipreid import tiny_clipreid


@pytest.fixture
def model(tmp_path: Path) -> ClipReid:
    torch.save(tiny_clipreid(), tmp_path / "m.pth")
    loaded = load_model(tmp_path / "m.pth", device="cpu", precision="fp32", image_size=(64, 32))
    assert isinstance(loaded, ClipReid)
    return loaded


def test_masked_images_keep_the_text_of_the_whole_one(model: ClipReid) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = torch.randint(0, 256, (4, 3, 64, 32), generator=generator, dtype=torch.uint8)
    masked = torch.cat([torch.randint(0, 256, whole.shape, generator=generator, dtype=torch.uint8), whole * 0])
    numbers = torch.arange(4).repeat(2)
    explained = ByText(model=model, how=HowExplained(None, NO_CAMERAS))
    rows = pa.table({"camid": [0, 0, 0, 0]})
    chosen = model.head(model.encode(whole)).parts["logits_text"].argmax(dim=1)  # type: ignore[union-attr]
    of_masked = model.head(model.encode(masked)).parts["logits_text"]
    assert isinstance(of_masked, torch.Tensor)
    assert (of_masked.argmax(dim=1) != chosen[numbers]).any()  # else nothing is tested
    wanted = of_masked[torch.arange(8), chosen[numbers]]
    score = explained.score(rows, whole)
    torch.testing.assert_close(score(masked, numbers)[:, 0], wanted)
    torch.testing.assert_close(score(masked[5:6], torch.tensor([1]))[:, 0], wanted[5:6])

    target = explained.target(rows, whole)
    changed = 0
    for _, random in cascade(model, seed=1):
        out = random.head(random.encode(whole))
        assert out.text_scores is not None
        torch.testing.assert_close(target.score(out), out.text_scores[torch.arange(4), chosen])
        changed += int((out.text_scores.argmax(dim=1) != chosen).sum())
    assert changed


def test_a_text_that_the_model_has_not_is_an_error(model: ClipReid) -> None:
    out = model.head(model.encode(torch.zeros(1, 3, 64, 32, dtype=torch.uint8)))
    with pytest.raises(CamError, match="has not the text"):
        text_target(torch.tensor([5])).score(out)
