"""Passes of a batch: what a graph must do with its buffers, with a stand-in that runs the work again at each replay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from cam.errors import CamError
from cam.extract import Extraction
from cam.targets import FEATURE, PREDICTED, Target, class_target, similarity_target
from jobs.mining.passes.graphed import GraphedPass, Replayed
from jobs.mining.passes.plain import PlainPass
from promptsg_core.cameras import Cameras
from promptsg_core.errors import ModelError
from promptsg_core.model import AnyModel
from tests.support.small_models import small_model

CPU = torch.device("cpu")
SIZE = 4


@dataclass
class Again:
    """A graph as a GPU replays it: the same work on the same buffers, into the same memory."""

    work: Callable[[], Extraction]
    into: Extraction

    def replay(self) -> None:
        for name, tensor in tensors(self.work()).items():
            tensors(self.into)[name].copy_(tensor)


def capture(device: torch.device, work: Callable[[], Extraction]) -> tuple[Replayed, Extraction]:
    found = work()
    return Again(work, found), found


def tensors(found: Extraction) -> dict[str, Tensor]:
    others = {one.name: getattr(found, one.name) for one in fields(found) if one.name != "maps"}
    return {**others, **found.maps}


def images_of(model: AnyModel, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *model.config.image_size), dtype=torch.uint8, generator=generator)


def passes(kind: str, maps: tuple[str, ...], how: Callable[..., object] = capture) -> tuple[PlainPass, GraphedPass]:
    plain = PlainPass(model=small_model(kind), maps=maps)
    return plain, GraphedPass(plain, SIZE, CPU, how)  # type: ignore[arg-type]


def assert_close(found: Extraction, wanted: Extraction) -> None:
    """The padded batch is as the short one; other sizes may go to other kernels."""
    for name, tensor in tensors(wanted).items():
        torch.testing.assert_close(tensors(found)[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("target", [PREDICTED, FEATURE, "label", "similarity"])
def test_a_graph_gives_each_batch_its_own_results(target: Target | str) -> None:
    """Full and short batches in turns, with other classes and references each time."""
    plain, graphed = passes("promptsg composed", ("mim_attention", "gradcam++/mim"))
    for seed, count in enumerate((SIZE, 2, SIZE, 1)):
        images = images_of(plain.model, count, seed)
        goal = target
        if target == "label":
            goal = class_target((torch.arange(count) + seed) % 7)
        elif target == "similarity":
            noise = torch.randn(count, plain.model.config.feature_dim, generator=torch.Generator().manual_seed(seed))
            goal = similarity_target(noise)
        assert isinstance(goal, Target)
        assert_close(graphed(images, goal), plain(images, goal))
    assert len(graphed._graphs) == 1


def test_cameras_are_part_of_what_a_graph_reads() -> None:
    plain, graphed = passes("transreid jpm", ("cls_attention", "hirescam/vit_norm"))
    given: list[Cameras] = [torch.tensor([0, 1, 2]), torch.tensor([3, 3, 1]), 2, "mean"]
    for seed, cameras in enumerate(given):
        images = images_of(plain.model, 3, seed)
        assert_close(graphed(images, PREDICTED, cameras), plain(images, PREDICTED, cameras))
    assert len(graphed._graphs) == 3


def test_the_results_lie_in_the_graph_s_own_memory() -> None:
    plain, graphed = passes("osnet", ("activation",))
    first = graphed(images_of(plain.model, SIZE, 0), PREDICTED)
    kept = first.features.clone()
    second = graphed(images_of(plain.model, SIZE, 1), PREDICTED)
    assert second.features.data_ptr() == first.features.data_ptr() and not torch.equal(first.features, kept)


def test_where_no_graph_can_be_captured_the_plain_pass_does_it_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(device: torch.device, work: Callable[[], Extraction]) -> tuple[Replayed, Extraction]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, graphed = passes("osnet", ("activation",), refuse)
    images = images_of(plain.model, 2, 0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_close(graphed(images, PREDICTED), plain(images, PREDICTED))
    assert [record.message.count("no CUDA graph") for record in caplog.records] == [1]


def test_a_camera_without_a_row_is_refused_also_where_the_graph_is_there() -> None:
    plain, graphed = passes("transreid", ("cls_attention",))
    images = images_of(plain.model, 2, 0)
    graphed(images, PREDICTED, torch.tensor([0, 3]))
    with pytest.raises(ModelError, match="camera 4 was given"):
        graphed(images, PREDICTED, torch.tensor([4, 0]))


def test_what_is_wrong_with_a_batch_is_said_and_is_no_failure_of_the_graph() -> None:
    plain, graphed = passes("promptsg composed", ("gradcam/mim",))
    images = images_of(plain.model, 2, 0)
    with pytest.raises(CamError, match="the head has 7"):
        graphed(images, class_target(torch.tensor([0, 7])))
    graphed(images, class_target(torch.tensor([0, 6])))
    with pytest.raises(CamError, match="the head has 7"):  # also where the graph is there
        graphed(images, class_target(torch.tensor([0, 7])))
    assert len(graphed._graphs) == 1


def no_memory_for(most: int) -> Callable[[torch.device, Callable[[], Extraction]], tuple[Replayed, Extraction]]:
    """A capture that fits for so many images only. As on a GPU, ending the capture fails too, for that reason."""

    def attempt(device: torch.device, work: Callable[[], Extraction]) -> tuple[Replayed, Extraction]:
        found = work()
        if len(found.score) <= most:
            return Again(work, found), found
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    return attempt


def test_memory_that_does_not_suffice_for_a_capture_is_no_end_of_graphs() -> None:
    plain, graphed = passes("osnet", ("activation",), no_memory_for(2))
    images = images_of(plain.model, SIZE, 0)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(images[:1], PREDICTED)
    assert graphed.tried == SIZE and not graphed._failed
    graphed.make_smaller(2)
    assert_close(graphed(images[:1], PREDICTED), plain(images[:1], PREDICTED))
    assert graphed.tried == 2 and [len(graph.images) for graph in graphed._graphs.values()] == [2]


def test_a_graph_of_one_image_that_does_not_fit_leaves_the_plain_pass() -> None:
    plain, graphed = passes("osnet", ("activation",), no_memory_for(0))
    graphed.make_smaller(1)
    images = images_of(plain.model, 1, 0)
    assert_close(graphed(images, PREDICTED), plain(images, PREDICTED))


def test_smaller_graphs_take_the_place_of_larger_ones() -> None:
    plain, graphed = passes("osnet", ("activation",))
    images = images_of(plain.model, SIZE, 0)
    graphed(images, PREDICTED)
    graphed.make_smaller(2)
    assert not graphed._graphs
    assert_close(graphed(images[:2], PREDICTED), plain(images[:2], PREDICTED))
    assert [len(graph.images) for graph in graphed._graphs.values()] == [2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_graph_gives_what_the_plain_pass_gives() -> None:
    device = torch.device("cuda", 0)
    plain = PlainPass(model=small_model("promptsg composed").to(device), maps=("mim_attention", "gradcam++/mim"))
    graphed = GraphedPass(plain, SIZE, device)
    for seed, count in enumerate((SIZE, 2, SIZE)):
        images = images_of(plain.model, count, seed)
        goal = class_target((torch.arange(count) + seed) % 7)
        assert_close(graphed(images.to(device), goal), plain(images.to(device), goal))
    assert not graphed._failed and len(graphed._graphs) == 1
