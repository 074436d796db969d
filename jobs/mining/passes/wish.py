"""Whether the blocks of the image tower are compiled: what was asked for, and when a run is long enough (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.mining.config import CompileChoice

# Of a crop in a tar, with its headers: Market-1501's take 4 KiB, MSMT17's about 16. Larger images are taken for more.
_BYTES_PER_IMAGE = 16 * 1024
# Compiling took 1 to 3 minutes on two busy cores. A thread does about 7 images a second of a ViT-B/16 in bf16, and if a
# fifth of the time is saved, 20,000 images save 10 minutes on each thread.
IMAGES_PER_THREAD = 20_000


@dataclass(frozen=True, kw_only=True)
class CompileWish:
    """What was asked for, and about how many images this process mines, done or not; None where that is not known.

    Images that are done count: a run that goes on decides as it did before it was interrupted.
    """

    choice: CompileChoice = "off"
    images: int | None = None

    @classmethod
    def for_bytes(cls, choice: CompileChoice, size: int | None) -> CompileWish:
        """For a process that reads shards of so many bytes."""
        return cls(choice=choice, images=None if size is None else size // _BYTES_PER_IMAGE)

    def pays(self, threads: int) -> bool:
        """Whether so many threads save more time than compiling takes."""
        return self.images is not None and self.images >= IMAGES_PER_THREAD * threads
