"""Loops compiled to machine code by Numba: one sweep over the numbers in place of several whole-array steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """The loop as machine code, which is made at the first call and takes up to a second.

    Sums may be taken in any order, several terms at a time. Non-finite values stay non-finite. Python's lock is not
    held. Nothing is kept on disk: workers that start together on different processors would give each other the wrong
    code, and a full disk or a truncated file would end a job without need.
    """
    machine_code = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
    return cast(_Loop, machine_code(loop))
