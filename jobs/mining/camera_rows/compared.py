"""How two runs chose the rows of a camera embedding, in words: features with other rows do not compare (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.phrases import first_few
from jobs.runs.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ChosenRows:
    """`camera` is a row for all images, or a word; else `mapping` is camera -> row, or `trained_on` names a data set.

    Only the first of them that is given counts.
    """

    camera: str | None
    mapping: Mapping[int, int] | None
    trained_on: str | None

    @classmethod
    def of_run(cls, manifest: Manifest) -> ChosenRows:
        """As a run chose them."""
        asked = manifest.asked
        return cls(camera=asked.camera, mapping=manifest.resolved.camera_map, trained_on=asked.trained_on)

    @property
    def what_counts(self) -> str | Mapping[int, int] | tuple[str | None]:
        """The first that is given."""
        return self.camera or self.mapping or (self.trained_on,)

    def __str__(self) -> str:
        """The option that counts, as it was typed, of a file its content."""
        if self.camera:
            return f"--camera {self.camera}"
        if self.mapping:
            return (
                f"--camera-map with {first_few([f'{camera}: {row}' for camera, row in sorted(self.mapping.items())])}"
            )
        return f"--trained-on {self.trained_on}"
