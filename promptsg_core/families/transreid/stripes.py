"""TransReID's jigsaw patch module (JPM): which patches each of its four stripes gathers.

Legend: M patches, P patches of a stripe.
"""

from __future__ import annotations

from dataclasses import dataclass

from promptsg_core.errors import ModelError

STRIPES = 4  # there are as many classifiers, whatever the patches are divided into


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """How the patches are dealt out, under the names of the training code's settings, `devide_length` included."""

    shift_num: int = 5
    shuffle_group: int = 2
    devide_length: int = 4
    re_arrange: bool = True


def stripes(patches: int, shuffle: Shuffle) -> list[list[int]]:
    """The numbers of the P patches of each stripe. The stripes are no parts of a body: their patches lie apart.

    Patches beyond the last stripe are in none, and one may be in two, where their number is not even.
    Raises ModelError where the patches cannot be dealt out like this.
    """
    each = patches // shuffle.devide_length
    if shuffle.devide_length < STRIPES or not each:
        raise ModelError(
            f"devide_length is {shuffle.devide_length}: {patches} patches divided by it do not fill {STRIPES} stripes"
        )
    order = _order(patches, shuffle) if shuffle.re_arrange else list(range(patches))
    return [order[i * each : (i + 1) * each] for i in range(STRIPES)]


def _order(patches: int, shuffle: Shuffle) -> list[int]:
    """The patches rotated to the left, written as rows and read by columns."""
    first, rows = shuffle.shift_num - 1, shuffle.shuffle_group
    if not 0 <= first < patches:
        raise ModelError(f"shift_num is {shuffle.shift_num}, and there are {patches} patches")
    turned = [*range(first, patches), *range(first)]
    if patches % rows:
        turned.append(turned[-2])  # the author's way to an even number
    if len(turned) % rows:
        raise ModelError(f"shuffle_group is {rows}, and {patches} patches do not divide into as many rows")
    columns = len(turned) // rows
    return [turned[row * columns + column] for column in range(columns) for row in range(rows)]
