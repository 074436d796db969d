"""The kinds of damage that happen to files: cuts, flipped bits, zeros, other content, files that changed places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

Damage = Callable[[Path, Path], None]  # (the file to damage, another file of its kind)

COPY = " (1)"  # what desktop systems add to the name of a copy
_NO_RIGHTS = 0o000


def _missing(path: Path, _other: Path) -> None:
    path.unlink()


def _empty(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


def _cut(share: float, path: Path, _other: Path) -> None:
    """Only the beginning of the file is left: a copy that was interrupted."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _flipped(share: float, path: Path, _other: Path) -> None:
    """One bit differs: a disk or a memory that fails."""
    content = bytearray(path.read_bytes())
    if content:
        content[min(int(len(content) * share), len(content) - 1)] ^= 1 << 4
    path.write_bytes(content)


def _zeros_at_end(path: Path, _other: Path) -> None:
    """The last third is zeros, as after a loss of power: the size was written, the bytes were not."""
    content = path.read_bytes()
    kept = len(content) * 2 // 3
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def _longer(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4096))


def _other_over_it(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def _swapped(path: Path, other: Path) -> None:
    """The two files exchange their names."""
    here, there = path.read_bytes(), other.read_bytes()
    path.write_bytes(there)
    other.write_bytes(here)


def _copy_beside(path: Path, _other: Path) -> None:
    shutil.copyfile(path, path.with_name(f"{path.stem}{COPY}{path.suffix}"))


def _folder(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


def _text(content: bytes, path: Path, _other: Path) -> None:
    path.write_bytes(content)


def _link_to_itself(path: Path, _other: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _no_permission(path: Path, _other: Path) -> None:
    path.chmod(_NO_RIGHTS)


def _within(change: Callable[[object], object], path: Path, _other: Path) -> None:
    """A JSON file of which a value is of another type than it was."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = {}
    path.write_text(json.dumps(change(content)))


def _values(wrong: object, content: object) -> object:
    """The content with every value at the top replaced."""
    return dict.fromkeys(content, wrong) if isinstance(content, dict) else [wrong]


def _first_left_out(content: object) -> object:
    return dict(list(content.items())[1:]) if isinstance(content, dict) else content


EVERY_FILE: Mapping[str, Damage] = {
    "missing": _missing,
    "empty": _empty,
    **{f"cut at {share:.0%}": partial(_cut, share) for share in (0.02, 0.5, 0.999)},
    **{f"bit flipped at {share:.1%}": partial(_flipped, share) for share in (0, 0.1, 0.35, 0.7, 0.98)},
    "zeros at the end": _zeros_at_end,
    "longer": _longer,
    "another over it": _other_over_it,
    "swapped": _swapped,
    "copy beside": _copy_beside,
    "folder": _folder,
    "not text": partial(_text, b"\xff\xfe\x00\x81 not text"),
    "NUL bytes": partial(_text, bytes(64)),
    "text": partial(_text, b"hello: [world\n"),
    "link to itself": _link_to_itself,
    "no permission": _no_permission,
}

# Besides: what only a file of JSON, or of YAML, can be.
JSON_FILE: Mapping[str, Damage] = {
    "a JSON list": partial(_text, b"[]"),
    "a JSON list of one": partial(_text, b"[[1]]"),
    "a JSON null": partial(_text, b"null"),
    "a JSON number": partial(_text, b"1e999"),
    "a JSON text": partial(_text, b'"text"'),
    "an empty JSON object": partial(_text, b"{}"),
    "deep JSON": partial(_text, b"[" * 100_000),
    "all values null": partial(_within, partial(_values, None)),
    "all values lists": partial(_within, partial(_values, [[1]])),
    "all values text": partial(_within, partial(_values, "x")),
    "the first value left out": partial(_within, _first_left_out),
}
