"""What is known of published models, for where tensors do not tell (no torch)."""

from __future__ import annotations

from promptsg_core.config import PatchConfig, grid_of

# (image height, image width, stride) in patches.
_LAYOUTS = (
    (16, 8, 1.0), (16, 8, 0.75), (16, 8, 0.6875), (24, 8, 1.0), (24, 8, 0.75), (16, 12, 1.0), (16, 16, 1.0),
    (16, 16, 0.75), (32, 8, 1.0),
)  # fmt: skip
_VIEWS = 8  # of VeRi; Duke has as many cameras


def layouts_of(patches: int, patch: int) -> list[tuple[tuple[int, int], int]]:
    """(image size, stride) of the published layouts with so many patches of a size in pixels."""
    found = []
    for tall, wide, step in _LAYOUTS:
        size, stride = (tall * patch, wide * patch), max(1, round(step * patch))
        h, w = grid_of(size, patch, stride)
        if h * w == patches and (size, stride) not in found:
            found.append((size, stride))
    return found


def camera_rows_in_words(rows: int) -> str:
    """The rows of a camera embedding for people. Were views meant, a camera's number would take the row of a view."""
    return f"{rows} rows{', taken as cameras and not as views' if rows == _VIEWS else ''}"


def told_by_patches(config: PatchConfig) -> frozenset[str]:
    """The image size, unless published models have several of so many patches: see FamilyConfig.told."""
    h, w = config.grid
    return frozenset() if len(layouts_of(h * w, config.patch_size)) > 1 else frozenset({"image_size"})
