"""The copies that a model's device offers."""

from __future__ import annotations

import torch

from jobs.mining.device_copies.device import Device
from jobs.mining.device_copies.host import HostDevice


def device_of(device: torch.device) -> Device:
    """To be closed after use. Devices other than CUDA's are used as the host is, one step after the other."""
    if device.type != "cuda":
        return HostDevice()
    from jobs.mining.device_copies.cuda import CudaStreams
    from jobs.mining.device_copies.streamed import StreamedDevice

    return StreamedDevice(CudaStreams(device))
