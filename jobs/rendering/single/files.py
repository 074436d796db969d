"""Single images on disk: which files are meant, and what is written for each of them."""

from __future__ import annotations

import glob
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cam.overlay import Picture
from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.image_names import is_image
from jobs.rendering.single.maps import ImageMaps


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files, the images of folders and of their subfolders, and globs, in order, each once.

    A file that does not exist stays in the list, so that reading it reports it. Raises UserError if the list is empty.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if is_image(p))
        elif not path.exists() and glob.has_magic(argument):
            found += sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        else:
            found.append(path)
    if not found:
        raise UserError(f"no image in {', '.join(arguments)}")
    return list(dict.fromkeys(found))


def stems_for(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name's stem for each image, with its folders in front where two images would have the same one."""
    stems: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        stems[path] = _free_stem(path, taken)
        taken.add(stems[path])
    return stems


def _free_stem(path: Path, taken: set[str]) -> str:
    """The shortest stem that is not taken: the name, then one folder more at a time, then a number at the end."""
    parts = path.absolute().with_suffix("").parts
    count = 1
    stem = parts[-1]
    while stem in taken and count < len(parts) - 1:
        count += 1
        stem = "__".join(parts[-count:])
    unique, number = stem, 2
    while unique in taken:  # the same path with two extensions
        unique, number = f"{stem}__{number}", number + 1
    return unique


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a PNG, whole or not at all."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    write_whole(path, out.getvalue())


def save_arrays(path: Path, result: ImageMaps) -> None:
    """Writes the raw maps, by name, with the feature and the scores, as a .npz, whole or not at all."""
    out = io.BytesIO()
    np.savez(
        out,
        feature=result.feature,
        mim_attention_heads=result.heads,
        predicted=result.predicted,
        probability=result.probability,
        score=result.score,
        target=result.target,
        **result.maps,  # type: ignore[arg-type]
    )
    write_whole(path, out.getvalue())
