"""What a checkpoint file holds, read by what it is and not by what it is called. No code in it is run."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from promptsg_core.errors import CheckpointError
from promptsg_core.files.outline import Stub, objects_in, outline_of
from promptsg_core.phrases import first_few

# (offset, or -1 for anywhere near the start; lower-case bytes there; what such a file is)
_NO_CHECKPOINTS = (
    (-1, b"<html", "an HTML page; was a login or error page downloaded in its place?"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89png", "a PNG image"),
    (0, b"\x89hdf", "an HDF5 file"),
    (257, b"ustar", "a tar, such as a shard of images"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
)
_ADVICE = "code in a checkpoint is never run; save only the state dict"


def read_content(path: Path) -> object:
    """The content of a .pth or safetensors file: tensors, plain values and numpy's numbers. Tensors may be mapped.

    Raises CheckpointError with the reason, which does not name the file.
    """
    start = _start_of(path)
    for offset, sign, what in _NO_CHECKPOINTS:
        if sign in start.lower() if offset < 0 else start[offset : offset + len(sign)].lower() == sign:
            raise CheckpointError(f"not loaded: it is {what}")
    if is_safetensors(path, start):
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, MemoryError) as error:
            raise CheckpointError(f"not a readable safetensors file ({error})") from error
    return _read_pickle(path, zipped=start.startswith(b"PK\x03\x04"))


def is_safetensors(path: Path, start: bytes | None = None) -> bool:
    """Whether a file is safetensors by its name or its first bytes: the length of a JSON header, and the header."""
    start = _start_of(path) if start is None else start
    return path.suffix == ".safetensors" or start[8:10] in (b'{"', b"{}", b"{ ")


def memory_of_machine() -> int | None:
    """The bytes of the machine's memory; None where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _start_of(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError("is a folder, not a checkpoint file" if path.is_dir() else "does not exist")
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from error


def _read_pickle(path: Path, zipped: bool) -> object:
    archive = _entries(path) if zipped else []
    if script := next((entry.filename for entry in archive if entry.filename.endswith("/constants.pkl")), None):
        raise CheckpointError(
            f"is a TorchScript archive, whose code is not run ({script}); save its tensors once: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        )
    unpacked, memory = sum(entry.file_size for entry in archive), memory_of_machine()
    if memory is not None and unpacked > memory:
        raise CheckpointError(f"it unpacks to {unpacked / 2**30:.0f} GiB, the machine has {memory / 2**30:.0f}")
    # Only entries that are stored as they are can be mapped; a zip that was packed again may have compressed ones.
    mapped = zipped and all(entry.compress_type == zipfile.ZIP_STORED for entry in archive)
    try:
        with torch.serialization.safe_globals(_numpy_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for whoever wrote the file
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"not loaded: {_why_refused(path, error)}") from error
    except Exception as error:  # torch passes on what any of its readers raises about a damaged file
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"truncated, damaged or not a PyTorch checkpoint ({reason})") from error


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip; none of a damaged one, about which reading it says more."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _numpy_globals() -> list[Any]:
    """What numpy's numbers and arrays are unpickled by, under the names of numpy 1 and 2.

    These build numbers and arrays from bytes and call nothing else. Trainers store their metrics so.
    """
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    allowed: list[Any] = [np.dtype, np.ndarray]
    for home in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(scalar, f"{home}.scalar"), (rebuild, f"{home}._reconstruct")]
    return [*allowed, *{type(np.dtype(code)) for code in np.typecodes["All"]}]


def _why_refused(path: Path, error: Exception) -> str:
    """What in the file is not data, by the key that holds it where that can be told."""
    text = str(error)
    if "Unsupported" not in text and "GLOBAL" not in text:
        return text.split("\n")[0]
    content = outline_of(path)
    if isinstance(content, Stub):
        return f"it is a whole object of class {content.class_name}, and {_ADVICE} (model.state_dict())"
    if held := [f"{key} ({name})" for key, name in objects_in(content)]:
        return f"it holds more than tensors: {first_few(held)}; {_ADVICE}"
    names = re.findall(r"GLOBAL (\S+)", text)
    named = f" ({names[0]})" if names else ""
    if content is None:  # it cannot be read as a pickle either
        return f"truncated, damaged or not a PyTorch checkpoint{named}; {_ADVICE}"
    return f"it holds more than tensors{named}; {_ADVICE}"
