"""Blocks compiled by torch's inductor, with their weights as constants: packed once, as the processor wants them.

Legend: B batch, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Compiled: TypeAlias = Callable[[Tensor], Tensor]  # (B, N, D) -> (B, N, D), of one size
Compiler: TypeAlias = Callable[[Sequence[nn.Module], Tensor], Compiled]


def has_compiler() -> bool:
    """Whether the C++ compiler is there that inductor calls."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_blocks(blocks: Sequence[nn.Module], x: Tensor) -> Compiled:
    """The blocks as one program for inputs like `x` (B, N, D), which has run once. Gradients must be off.

    The weights are read now, and later changes are not seen. Raises whatever torch and the C++ compiler raise.
    """
    assert not torch.is_grad_enabled(), "weights become constants only where no gradient is wanted"
    with _own_folder():
        run: Compiled = torch.compile(
            nn.Sequential(*blocks),
            dynamic=False,
            fullgraph=True,
            # A header compiled beforehand would lie in torch's folder, whatever the variable says.
            options={
                "freezing": True,
                "compile_threads": 1,
                "fx_graph_cache": False,
                "cpp_cache_precompile_headers": False,
            },
        )
        run(x)
    return run


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """What is compiled lies in a folder of this process's own, which is deleted once it is loaded.

    By default torch keeps it in the system's folder for temporary files under the user's name, where whoever comes
    first may put programs, and loads what it finds there.
    """
    with tempfile.TemporaryDirectory(prefix="promptsg-", ignore_cleanup_errors=True) as folder:
        given = {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCH_WARM_POOL": "0"}  # no pool of compiling processes
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
