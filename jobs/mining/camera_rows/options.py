"""What the user says of cameras, for a model with camera embeddings (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """What is said of the cameras, for a model with camera embeddings.

    `trained_on` is the data set whose cameras the rows are. `camera_map` is a JSON file of cameras to rows. `camera` is
    a row for all images, or `mean` or `none`. The first of `camera` and `camera_map` that is given counts.
    """

    trained_on: str | None = None
    camera_map: Path | None = None
    camera: str | None = None

    @property
    def given(self) -> str | None:
        """The option that was given; None where none was. `trained_on` alone asks for nothing."""
        return "--camera" if self.camera is not None else "--camera-map" if self.camera_map is not None else None
