"""Loops as machine code, by Numba: one sweep over numbers in the cache where whole-array steps would be several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """The loop as machine code, made when it is first called, in up to a second.

    Sums may be taken in any order, several terms at a time; what is no number stays so. It holds no lock of Python's.
    Nothing is kept on disk: workers that start at once on different processors would leave each other the wrong code,
    and a full disk or a file cut short would end a job for nothing.
    """
    machine_code = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
    return cast(_Loop, machine_code(loop))
