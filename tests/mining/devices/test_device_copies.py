"""Copies to and from a device: bits, order, and memory that is used again only when its copy has ended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs.mining.devices.choose import device_of
from jobs.mining.devices.host import HostDevice
from jobs.mining.devices.packing import Packed, arrays_of, words_of
from jobs.mining.devices.streamed import StreamedDevice
from tests.support.late_copies import LateStreams

NAN_WITH_BITS = torch.tensor([0x7FC12345, -0x3EDCBB], dtype=torch.int32).view(torch.float32)


def test_every_bit_comes_out_as_it_went_in() -> None:
    given = {
        "odd": torch.tensor([1.5, -0.0, torch.inf]),
        "classes": torch.tensor([-1, 0, 2**62 + 1, -(2**63)]),
        "maps": torch.arange(24, dtype=torch.float32).view(2, 3, 4).transpose(1, 2),
        "none": torch.empty(0, 7),
        "nan": NAN_WITH_BITS,
        "more classes": torch.tensor([[7], [8]]),
    }
    tensors = list(given.values())
    packed = Packed.of(tensors)
    words = torch.cat(words_of(tensors, packed))
    assert len(words) == packed.count == 3 + 8 + 24 + 0 + 2 + 4
    for name, array in arrays_of(words, tuple(given), packed).items():
        wanted = given[name].contiguous().numpy()
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
        assert array.tobytes() == wanted.tobytes()
        assert not array.size or np.shares_memory(array, words.numpy())


def test_other_types_are_not_packed() -> None:
    with pytest.raises(ValueError, match=r"not torch\.float16"):
        Packed.of([torch.zeros(2, dtype=torch.float16)])


def test_a_cpu_copies_nothing() -> None:
    device, images = device_of(torch.device("cpu")), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert isinstance(device, HostDevice) and device.behind == 0
    uploaded = device.upload(images, [classes := torch.tensor([1, 2])])
    assert uploaded.images is images and uploaded.constants == (classes,)
    assert not uploaded.copied.passed()  # the images are still needed
    score = torch.tensor([0.5, 0.25])
    assert np.shares_memory(device.download({"score": score}).take()["score"], score.numpy())


def a_batch(number: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Images and two constants."""
    images = torch.full((2, 3, 4, 4), number, dtype=torch.uint8)
    return images, [torch.tensor([number, number + 1]), torch.tensor([[0.5 * number], [NAN_WITH_BITS[0]]])]


def test_images_go_up_with_one_copy_of_all_constants_and_results_come_down_in_one() -> None:
    streams = LateStreams()
    device = StreamedDevice(streams)
    images, constants = a_batch(3)
    uploaded = device.upload(images, constants)
    download = device.download({"classes": uploaded.constants[0], "references": uploaded.constants[1]})
    assert (streams.ups, streams.downs, streams.done) == ([2], [2], 0)  # nothing has waited
    for constant in constants:
        constant.zero_()  # they were read at once
    found = download.take()
    assert found["classes"].tolist() == [3, 4] and found["references"][0].tolist() == [1.5]
    assert found["references"].view(np.int32)[1, 0] == 0x7FC12345
    assert uploaded.copied.passed() and torch.equal(uploaded.images, images)


@pytest.mark.parametrize("early", [False, True])
def test_images_that_change_before_their_copy_has_ended_are_seen(early: bool) -> None:
    """What the next tests rely on."""
    device = StreamedDevice(LateStreams())
    slot, _ = a_batch(3)
    uploaded = device.upload(slot)
    assert not uploaded.copied.passed()
    if not early:
        uploaded.copied.wait()
    slot.fill_(9)
    uploaded.copied.wait()
    assert set(uploaded.images.unique().tolist()) == ({9} if early else {3})


@pytest.mark.parametrize("reuse", [False, True])
def test_results_stay_as_they_are_while_further_ones_arrive(reuse: bool) -> None:
    """With memory that is one and the same each time, which `reuse` plants, they would not."""
    device = StreamedDevice(LateStreams(reuse=reuse))
    downloads = [device.download({"score": torch.tensor([float(number)])}) for number in range(3)]
    found = [download.take()["score"] for download in downloads]
    assert [array.tolist() for array in found] == ([[2.0]] * 3 if reuse else [[0.0], [1.0], [2.0]])
