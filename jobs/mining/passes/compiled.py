"""Full batches through a compiled image tower: on a CPU, where it is the most of a pass.

Legend: B batch, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cam.extract import Extraction
from cam.targets import Target
from jobs.mining.passes.inductor import Compiled, Compiler, compile_blocks
from jobs.mining.passes.plain import PlainPass
from jobs.phrases import one_line
from promptsg_core.cameras import Cameras
from promptsg_core.prompts import Captions
from promptsg_core.towers.stack import one_after_another, stacks_of

logger = logging.getLogger(__name__)

# How far the compiled tokens may be from the plain ones (Frobenius norms over a batch). Both round to the last bits.
TOLERANCES: Mapping[torch.dtype, float] = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


class CompiledBlocks:
    """A `Way` to run blocks: the first batch of `size` compiles them, and batches of another size run as they are.

    Where compiling fails, or what is compiled gives other numbers, that is said once, and all batches run as they are
    from then on. The weights must not change afterwards.
    """

    def __init__(self, size: int, compiler: Compiler = compile_blocks) -> None:
        self.size, self.failed = size, False
        self._compiler = compiler
        self._compiled: dict[tuple[int, ...], Compiled] = {}

    def __call__(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D) after the last of the blocks."""
        if self.failed or len(x) != self.size:
            return one_after_another(blocks, x)
        key = tuple(map(id, blocks))
        if key not in self._compiled:
            plain = one_after_another(blocks, x)  # raises what is wrong with the batch, before any compiling
            if not self._try_to_compile(key, blocks, x, plain):
                return plain
        return self._compiled[key](x)

    def _try_to_compile(self, key: tuple[int, ...], blocks: Sequence[nn.Module], x: Tensor, plain: Tensor) -> bool:
        logger.info("compiling the image tower for batches of %d, which takes minutes (--compile off leaves it out)",
                    self.size)  # fmt: skip
        started = time.monotonic()
        try:
            compiled = self._compiler(blocks, x)
            _check(distance := _distance(compiled(x), plain), TOLERANCES[x.dtype])
        except Exception as error:  # noqa: BLE001 - whatever it is, the plain way has just done this batch
            self.failed = True
            logger.warning("the image tower runs as it is, not compiled (%s)", one_line(error))
            return False
        self._compiled[key] = compiled
        logger.info("the image tower is compiled: it took %.0f s, and its tokens differ by %.1g of their norm",
                    time.monotonic() - started, distance)  # fmt: skip
        return True


class CompiledPass:
    """A pass whose batches of `size` images go through a compiled image tower; `plain` does everything else."""

    def __init__(self, plain: PlainPass, size: int, compiler: Compiler = compile_blocks) -> None:
        self.plain, self.blocks = plain, CompiledBlocks(size, compiler)
        self._stacks = stacks_of(plain.model)

    def __call__(
        self, images: Tensor, target: Target, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> Extraction:
        """As of `Pass`."""
        with contextlib.ExitStack() as swapped:
            for stack in self._stacks:
                swapped.enter_context(stack.by(self.blocks))
            return self.plain(images, target, cameras, captions)


def _distance(found: Tensor, plain: Tensor) -> float:
    """||found - plain|| / ||plain||."""
    return float((found.float() - plain.float()).norm() / plain.float().norm())


def _check(distance: float, tolerance: float) -> None:
    if not distance <= tolerance:  # also where it is not a number
        raise ValueError(f"its tokens would differ by {distance:.1g} of their norm, and {tolerance:g} is allowed")
