"""The command with which a user looks at images that a result lists, as reports and terminals show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DrawCommand:
    """Pictures of the images whose keys are in a file, in a folder of their own.

    `style` is a style of `render`; None makes a page of `gallery`. `option` is the one that takes the file of `keys`.
    `other` is a second run, `map` the one map to show, and `limit` how many images to draw, None for all. `access` are
    the words with which the shards are opened. The command replaces what it made before: the file may have other keys
    by then.
    """

    run: Path
    keys: Path
    output: Path
    style: str | None = None
    option: str = "--keys"
    other: Path | None = None
    map: str | None = None
    limit: int | None = None
    access: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The words after `promptsg`, with the paths as they were given."""
        style = ["gallery", str(self.run)] if self.style is None else ["render", str(self.run), "--style", self.style]
        other = [] if self.other is None else ["--other", str(self.other)]
        map = [] if self.map is None else ["--map", self.map]
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        written = ["--overwrite", "--output", str(self.output)]
        return [*style, *other, self.option, str(self.keys), *map, *limit, *self.access, *written]

    @property
    def anywhere(self) -> list[str]:
        """The whole command with absolute paths: it runs in any folder, as a page that is opened later needs it."""
        whole = replace(
            self,
            run=self.run.absolute(),
            keys=self.keys.absolute(),
            output=self.output.absolute(),
            other=None if self.other is None else self.other.absolute(),
        )
        return ["promptsg", *whole.words]
