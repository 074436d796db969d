"""Loops as machine code, by Numba: one sweep over numbers in the cache where whole-array steps would be several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """The loop as machine code, kept beside its file or in the user's cache folder where one of them can be written.

    Sums may be taken in any order, several terms at a time; what is no number stays so. It holds no lock of Python's.
    """
    machine_code = partial(numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
    try:
        return cast(_Loop, machine_code(cache=True)(loop))
    except RuntimeError:  # neither can: compiled again in each process, within a second
        return cast(_Loop, machine_code()(loop))
