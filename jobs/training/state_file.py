"""resume.pt: the state that a training continues from, behind the SHA-256 of its bytes.

The file is a line that says what it is, the 32 bytes of the hash, and what `torch.save` writes. Earlier versions wrote
the last part alone, whose own checksums (CRC-32 of each part) are compared instead.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from jobs.atomic import StagedFile
from jobs.errors import UserError
from jobs.phrases import one_line
from jobs.system_errors import reason_of

_HEAD = b"promptsg training state 1\n"
_ZIP = b"PK"  # begins what earlier versions wrote
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """A training after `step` steps: whose it is and its log, both as JSON, and the states of its parts."""

    signature: str
    step: int
    figures: str
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, object]
    scaler: Mapping[str, object]


class _Hashed(io.RawIOBase):
    """Writes to a file and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        self.digest.update(data)
        return self._file.write(data)


def write_state(path: Path, state: SavedState) -> None:
    """Writes the file whole or not at all, and replaces the one that is there.

    Raises UserError where it cannot be written.
    """
    with StagedFile(path) as staged:
        staged.file.write(_HEAD + bytes(hashlib.sha256().digest_size))
        content = _Hashed(staged.file)
        try:
            torch.save(vars(state), cast(IO[bytes], content))
        except RuntimeError as error:  # torch's word for an error of the file, which is behind it
            cause = error.__context__ or error
            reason = reason_of(cause) if isinstance(cause, OSError) else f"{one_line(error)[:200]}; is the disk full?"
            raise UserError(f"cannot write {path}: {reason}") from error
        staged.file.seek(len(_HEAD))
        staged.file.write(content.digest.digest())
        staged.sync()
        staged.publish()


def read_state(path: Path, device: torch.device) -> SavedState:
    """The state, on a device. Raises UserError, with what to do, where a bit of the file is not as it was written."""
    with path.open("rb") as file:
        try:
            if not _is_whole(file):
                raise _damaged_error(path)
            return SavedState(**torch.load(file, map_location=device, weights_only=True))
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
            raise _damaged_error(path) from error


def _is_whole(file: IO[bytes]) -> bool:
    """Whether the checksums hold. The file is then at the start of what `torch.save` wrote."""
    head = file.read(len(_HEAD))
    if head == _HEAD:
        expected = file.read(hashlib.sha256().digest_size)
        start = file.tell()
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
        file.seek(start)
        return digest.digest() == expected
    if not head.startswith(_ZIP):
        return False
    with zipfile.ZipFile(file) as parts:
        whole = parts.testzip() is None
    file.seek(0)
    return whole


def _damaged_error(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged, so the training cannot go on from it: delete it, and the same command starts again from "
        "the first step (the model.safetensors beside it has the weights of the last save)"
    )
