"""Which cameras a model takes: one rule for all families, with camera embeddings and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptsg_core import ModelError, load_model
from promptsg_core.cameras import camera_rows
from promptsg_core.model import AnyModel
from tests.support import tiny_irra, tiny_transreid
from tests.support.tiny import tiny_checkpoint
from tests.support.tiny_clipreid import tiny_clipreid
from tests.support.tiny_osnet import tiny_osnet

ROWS = torch.arange(12.0).reshape(4, 3)


def saved(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


WITHOUT: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "PromptSG": (lambda path: tiny_checkpoint(path, image_size=(64, 32)), {}),
    "CLIP-ReID": (lambda path: saved(tiny_clipreid(), path), {}),
    "CLIP-ReID, cameras not used": (lambda path: saved(tiny_clipreid(cameras=6), path), {"sie_camera": False}),
    "TransReID": (
        lambda path: tiny_transreid.tiny_checkpoint(path, tiny_transreid.Sizes(cameras=0)),
        {"image_size": tiny_transreid.Sizes().image_size},
    ),
    "IRRA": (lambda path: saved(tiny_irra.tiny_irra(), path), {}),
    "OSNet": (lambda path: saved(tiny_osnet(), path), {"image_size": (64, 32)}),
}


@pytest.mark.parametrize(("write", "given"), WITHOUT.values(), ids=WITHOUT.keys())
def test_without_an_embedding_none_alone_is_taken(
    tmp_path: Path, write: Callable[[Path], object], given: dict[str, Any]
) -> None:
    write(tmp_path / "m.pth")
    model: AnyModel = load_model(tmp_path / "m.pth", device="cpu", precision="fp32", **given)
    images = torch.rand(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(model(images), model(images, "none"))
    calls: list[Callable[[Any], object]] = [lambda cameras: model(images, cameras)]
    if model.has_attention:
        calls.append(lambda cameras: model.trace(images, gradient=False, cameras=cameras))
    for cameras in (1, torch.tensor([0, 1]), "mean", [0, 1]):
        for call in calls:
            with pytest.raises(ModelError, match="this model uses no camera embedding"):
                call(cameras)


@pytest.mark.parametrize(
    ("cameras", "kind"),
    [(torch.tensor([0.0, 1.0]), "float32"), (1.5, "float32"), (torch.tensor([True, False]), "bool")],
)
def test_cameras_are_whole_numbers(cameras: Any, kind: str) -> None:
    with pytest.raises(ModelError, match=f"cameras are of type {kind}; give whole numbers from 0 to 3, or 'mean' or"):
        camera_rows(ROWS, cameras, 2)


def test_numbers_of_every_whole_type_choose_rows() -> None:
    for dtype in (torch.uint8, torch.int16, torch.int64):
        found = camera_rows(ROWS, torch.tensor([1, 0], dtype=dtype), 2)
        assert found is not None and torch.equal(found, ROWS[[1, 0]])
    listed: Any = [3, 2, 1]
    with pytest.raises(ModelError, match="3 cameras were given for 2 images"):
        camera_rows(ROWS, listed, 2)
