"""Which pass a worker uses."""

from __future__ import annotations

import logging

import torch

from jobs.mining.config import MineConfig
from jobs.mining.passes.compiled import CompiledPass
from jobs.mining.passes.graphed import GraphedPass
from jobs.mining.passes.inductor import has_compiler
from jobs.mining.passes.plain import Pass, plain_pass
from jobs.mining.passes.wish import CompileWish
from promptsg_core.model import AnyModel
from promptsg_core.precision import cpu_has_amx
from promptsg_core.towers.stack import stacks_of

logger = logging.getLogger(__name__)


def choose_pass(
    model: AnyModel,
    config: MineConfig,
    compiling: CompileWish = CompileWish(),  # noqa: B008 - it is frozen
) -> Pass:
    """The pass for batches of up to `config.batch_size` images.

    On a GPU it is made of CUDA graphs, and on a CPU its image tower is compiled, where that
    is wished. A larger batch is taken too, operator by operator. The weights must not change afterwards: graphs and
    programs hold what was made of them.
    """
    plain = plain_pass(model, config)
    if model.device.type == "cuda":
        if compiling.choice == "on":
            logger.info("--compile on is for CPUs: on a GPU a batch runs as a CUDA graph")
        return GraphedPass(plain, config.images_at_once, model.device)
    if not _compiles(model, compiling):
        return plain
    return CompiledPass(plain, config.images_at_once)


def _compiles(model: AnyModel, wish: CompileWish) -> bool:
    """Whether the tower is compiled. By itself only in bf16 and with the instructions with which it was found faster:
    in fp32 it is hardly so, and there a run is the same to the byte on all machines of a kind.
    """
    if wish.choice == "off":
        return False
    if not stacks_of(model):
        if wish.choice == "on":
            logger.info("--compile on is for towers of transformer blocks, and this model has none: it runs as it is")
        return False
    if wish.choice == "on":
        return True
    fast = model.dtype == torch.bfloat16 and cpu_has_amx()
    return fast and wish.pays(torch.get_num_threads()) and has_compiler()
