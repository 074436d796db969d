"""The folder of a gallery: what may be in it, and what an earlier gallery left."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from jobs.atomic import make_folder
from jobs.errors import UserError
from jobs.leftovers import TEMPORARY
from jobs.phrases import first_few

_OURS = frozenset({"index.html", "gallery.css", "gallery.js", "data.js", "thumbs", "maps"})
_PICTURE = re.compile(r"\d{4,}/\d{6,}\.[a-z0-9_]+\.jpg")
_SCRIPT = re.compile(r"\d{4,}\.js")


def check_folder(output: Path, overwrite: bool) -> None:
    """Raises UserError where `output` holds a gallery that may not be overwritten, or anything that is not ours."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if foreign := sorted(name for name in names - _OURS if not name.endswith(TEMPORARY)):
        raise UserError(f"--output {output} holds other files ({first_few(foreign)}); name a new or an empty folder")
    for name in ("thumbs", "maps"):
        if (output / name).is_symlink():
            raise UserError(f"{output / name} is a link and leads out of the folder; name a new or an empty folder")
    if "index.html" in names and not overwrite:
        raise UserError(f"there is a gallery in {output}; give --overwrite or another --output")


def withdraw_page(output: Path) -> set[Path]:
    """Makes the folder, takes away its page, and returns the pictures and scripts that an earlier gallery left."""
    make_folder(output)
    (output / "index.html").unlink(missing_ok=True)
    found = set()
    for folder, pattern in (("thumbs", _PICTURE), ("maps", _SCRIPT)):
        root = output / folder
        for path in root.rglob("*"):
            if path.is_file() and pattern.fullmatch(path.relative_to(root).as_posix()):
                found.add(path)
    return found


def remove_pictures(paths: Iterable[Path]) -> None:
    """Removes pictures and scripts of a larger gallery that was here before, and folders that become empty."""
    for path in paths:
        path.unlink()
        with contextlib.suppress(OSError):  # other files are still in it
            path.parent.rmdir()
