"""The copies that a model's device offers."""

from __future__ import annotations

import torch

from jobs.mining.devices.device import Device
from jobs.mining.devices.host import HostDevice


def device_of(device: torch.device) -> Device:
    """To be closed after use. Devices other than CUDA's are used as the host is, one step after the other."""
    if device.type != "cuda":
        return HostDevice()
    from jobs.mining.devices.cuda_streams import CudaStreams
    from jobs.mining.devices.streamed import StreamedDevice

    return StreamedDevice(CudaStreams(device))
