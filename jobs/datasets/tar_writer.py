"""Writes samples into a tar as WebDataset expects them, with the same bytes for the same samples (no torch)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO

from jobs.datasets.keys import member_suffix
from jobs.datasets.listing import Record
from jobs.datasets.names import ParsedKey
from jobs.errors import UserError
from jobs.identity import Who
from jobs.phrases import shown


def write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    """Writes (name, content) pairs as a tar. Headers carry no times or owners."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))


def member_names(record: Record) -> tuple[str, str]:
    """The names of a sample's `.json` and of its image."""
    return f"{record.key}.json", f"{record.key}{member_suffix(record.path)}"


def read_members(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each record's members: `<key>.json`, and `<key>.<suffix>` with the image's bytes untouched.

    Raises UserError naming an image that cannot be read.
    """
    for record in records:
        try:
            image = record.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {shown(record.path)}: {error.strerror}") from error
        note, name = member_names(record)
        yield note, sample_json(record.parsed, record.split, record.who)
        yield name, image


def sample_json(parsed: ParsedKey, split: str, who: Who) -> bytes:
    """The content of a sample's `.json` member."""
    return json.dumps({**parsed._asdict(), **who._asdict(), "split": split}).encode()
