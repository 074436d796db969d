"""The facts of the machine: its GPU, its processor, the versions, and what torch may do with float32."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
from pathlib import Path

import torch

from jobs.memory import machine_memory
from jobs.processes import available_cores
from tests.gpu.parts import Kept
from tests.gpu.setting import Setting

_PACKAGES = (
    *(
        "torchvision",
        "numpy",
        "h5py",
        "numba",
        "cv2",
        "PIL",
        "matplotlib",
        "click",
        "fsspec",
        "pyarrow",
        "tqdm",
        "yaml",
    ),
    *("safetensors", "pydantic", "braceexpand", "duckdb", "webdataset", "pytest", "open_clip"),
)
_SMI = "name,driver_version,memory.total,power.limit,clocks.max.sm,mig.mode.current,compute_mode"


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps the facts."""
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": available_cores(),
        "processor": _processor(),
        "memory_bytes": machine_memory(),
        "packages_missing": [name for name in _PACKAGES if importlib.util.find_spec(name) is None],
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    kept.put(facts)
    if setting.on_gpu:
        device = torch.device(setting.device)
        found = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": found.name,
            "gpu_memory_bytes": found.total_memory,
            "compute_capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nvidia_smi": _nvidia_smi(),
        }
    kept.put(facts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _nvidia_smi() -> str:
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv"], capture_output=True, text=True,
                              timeout=15)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout + done.stderr).strip()
