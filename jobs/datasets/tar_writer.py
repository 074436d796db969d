"""Writes samples into a tar as WebDataset expects them, with the same bytes for the same samples (no torch)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO

from jobs.datasets.names import ParsedKey


def write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    """Writes (name, content) pairs as a tar. Headers carry no times or owners."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))


def sample_json(parsed: ParsedKey, split: str) -> bytes:
    """The content of a sample's `.json` member."""
    return json.dumps({**asdict(parsed), "split": split}).encode()
