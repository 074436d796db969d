"""How two maps of one image differ: the measures of `promptsg diff`, each of one pair (no torch).

Maps are read as in `jobs.statistics.agreement`: values below zero have no mass, and a map without mass, or with a
non-finite value, has no shape. Loops are compiled by Numba; as in `jobs.statistics.loops`, nothing checks bounds there.

Legend: n pairs of maps, M patches, C clusters (one identity in one group), G groups.
"""

from __future__ import annotations

import numpy as np

from cam.compiled import compiled
from jobs.arrays import Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, UInt32Array
from jobs.statistics.agreement import AGREEMENTS, TOP
from jobs.statistics.loops import GOOD, mass_of

# From the two maps themselves, then from the measures that mining stored with each.
OF_MAPS = (*AGREEMENTS, "moved")
OF_STORED = ("com_shift", "com_dx", "com_dy", "area50_shift")
MEASURES = (*OF_MAPS, *OF_STORED)
MOVED = MEASURES.index("moved")
MEANINGS = {
    "pearson": "Pearson correlation of the two maps over the patches",
    "spearman": "Spearman correlation; ties share their mean rank",
    "top20": "share of the top 20 % of patches that both maps have in common",
    "moved": "share of the mass that lies elsewhere: 0 the same map, 1 nothing in common",
    "com_shift": "how far the centre of mass moved; 1 is from corner to corner: the square root of (dx² + dy²) / 2",
    "com_dx": "the same to the right, as a fraction of the width (negative: to the left)",
    "com_dy": "the same downwards, as a fraction of the height (negative: upwards)",
    "area50_shift": "the smallest share of patches with half of the mass, B minus A (negative: B is narrower)",
}
_ROWS = 256  # pairs whose sorted patches stay in a processor's cache
_SIGN = np.uint32(1 << 31)


def compare_maps(a: Float32Array, b: Float32Array) -> tuple[Float64Array, Int8Array, Int8Array]:
    """(n, M), (n, M) without negative values -> (n, OF_MAPS), and whether each of the maps is good (n,), (n,).

    Ties at the border of the top 20 % go to the patch further up and left. A pair of which one map has no shape is NaN.
    A correlation with a flat map is NaN too.
    """
    n, patches = a.shape
    top = max(1, round(TOP * patches))
    bits_a, bits_b = a.view(np.uint32), b.view(np.uint32)
    places = np.uint32(max(1, (patches - 1).bit_length()))  # bits that a patch's place takes
    mask = np.uint32((1 << int(places)) - 1)
    found = np.full((n, len(OF_MAPS)), np.nan)
    state_a, state_b = np.empty(n, np.int8), np.empty(n, np.int8)
    both = np.empty((2 * min(n, _ROWS), patches), np.uint32)
    for start in range(0, n, _ROWS):
        part = slice(start, min(n, start + _ROWS))
        count = part.stop - start
        keys = both[: 2 * count]
        _write_keys(bits_a[part], places, keys[:count])
        _write_keys(bits_b[part], places, keys[count:])
        # numpy sorts unsigned numbers of 32 bits in a quarter of the time of 64 bits, which would hold a whole value
        # beside its place, and in a tenth of that of any argsort.
        keys.sort(axis=1)
        _compare(
            a[part], b[part], bits_a[part], bits_b[part], keys, mask, top, found[part], state_a[part], state_b[part]
        )
    return found, state_a, state_b


def shifts(a: Float64Array, b: Float64Array) -> Float64Array:
    """(n, 3), (n, 3) com_x, com_y and area50 of the maps of A and of B -> (n, OF_STORED); NaN stays NaN."""
    change = b - a
    distance = np.sqrt((change[:, 0] ** 2 + change[:, 1] ** 2) / 2)
    return np.column_stack([distance, change])


@compiled
def add_pairs(
    a: Float32Array,
    b: Float32Array,
    state_a: Int8Array,
    state_b: Int8Array,
    cluster: Int32Array,
    group: Int64Array,
    difference: Float32Array,
    mean_a: Float64Array,
    mean_b: Float64Array,
    pairs: Int64Array,
) -> None:
    """Adds up the shares of mass of the pairs (n, M) of which both maps are good.

    cluster (n,) is each pair's, group (C,) each cluster's. B minus A goes to difference (C, M), each of the two to
    mean_a and mean_b (G, M), and the number of pairs to pairs (C,).
    """
    for i in range(len(a)):
        if state_a[i] != GOOD or state_b[i] != GOOD:
            continue
        scale_a, scale_b = np.float32(1) / mass_of(a[i])[1], np.float32(1) / mass_of(b[i])[1]
        of = cluster[i]
        change, sum_a, sum_b = difference[of], mean_a[group[of]], mean_b[group[of]]
        pairs[of] += 1
        for j in range(a.shape[1]):
            x, y = a[i, j] * scale_a, b[i, j] * scale_b
            change[j] += y - x
            sum_a[j] += x
            sum_b[j] += y


@compiled
def add_values(values: Float64Array, cluster: Int32Array, sums: Float64Array, counts: Int64Array) -> None:
    """Adds the values (n, V) that are numbers to sums and counts (C, V)."""
    for i in range(len(values)):
        for v in range(values.shape[1]):
            if abs(values[i, v]) <= 2.0:  # no measure is larger; NaN is not
                sums[cluster[i], v] += values[i, v]
                counts[cluster[i], v] += 1


@compiled
def _bits_of(value: np.uint32) -> np.uint32:
    """The bits of a float that is not negative, which are in its order; those of -0.0 are those of 0.0."""
    return value if value != _SIGN else np.uint32(0)


@compiled
def _write_keys(bits: UInt32Array, places: np.uint32, keys: UInt32Array) -> None:
    """(n, M) bits of floats that are not negative -> (n, M) numbers nearly in their order; `places` bits are the place.

    The place counts from the last patch, so that equal values rise towards the patch further up and left. The bits
    above it hold how far the value lies above the map's least; where that takes more bits than there are, the lowest
    are dropped, and `_mend` puts right what that leaves in the wrong order.
    """
    patches = bits.shape[1]
    last = np.uint32(patches - 1)
    for i in range(len(bits)):
        row, written = bits[i], keys[i]
        least = most = _bits_of(row[0])
        for j in range(patches):
            value = _bits_of(row[j])
            least, most = min(least, value), max(most, value)
        drop = np.uint32(0)
        while (most - least) >> drop >> (np.uint32(32) - places):
            drop += np.uint32(1)
        for j in range(patches):
            written[j] = ((_bits_of(row[j]) - least) >> drop << places) | (last - np.uint32(j))


@compiled
def _compare(
    a: Float32Array,
    b: Float32Array,
    bits_a: UInt32Array,
    bits_b: UInt32Array,
    keys: UInt32Array,
    mask: np.uint32,
    top: int,
    found: Float64Array,
    state_a: Int8Array,
    state_b: Int8Array,
) -> None:
    """Writes found (n, OF_MAPS) and the states from the maps, their bits, and their sorted keys (2n, M).

    `mask` has the bits of a key that are the place.
    """
    n, patches = a.shape
    ranks_a, ranks_b = np.empty(patches), np.empty(patches)
    values, position = np.empty(patches, np.uint32), np.empty(patches, np.int64)
    for i in range(n):
        state_a[i], _ = mass_of(a[i])
        state_b[i], _ = mass_of(b[i])
        if state_a[i] != GOOD or state_b[i] != GOOD:
            continue
        row_a, row_b, keys_a, keys_b = a[i], b[i], keys[i], keys[n + i]
        ra, rb = _rank(keys_a, bits_a[i], mask, ranks_a, values), _rank(keys_b, bits_b[i], mask, ranks_b, values)
        ranked, common = _compare_ranks(keys_a, keys_b, mask, ranks_a, ranks_b, top, position)
        mass_a, mass_b = 0.0, 0.0
        for j in range(patches):
            mass_a += row_a[j]
            mass_b += row_b[j]
        scale_a, scale_b, even = 1 / mass_a, 1 / mass_b, 1 / patches
        xx, yy, xy, apart = 0.0, 0.0, 0.0, 0.0
        for j in range(patches):
            x, y = row_a[j] * scale_a - even, row_b[j] * scale_b - even
            apart += abs(x - y)
            xx += x * x
            yy += y * y
            xy += x * y
        if ra > 0 and rb > 0:  # neither is flat
            found[i, 0] = xy / np.sqrt(xx * yy)
            found[i, 1] = ranked / np.sqrt(ra * rb)
        found[i, 2] = common / top
        found[i, 3] = apart / 2


@compiled
def _rank(keys: UInt32Array, bits: UInt32Array, mask: np.uint32, ranks: Float64Array, values: UInt32Array) -> float:
    """Writes a map's ranks, less their mean, in rising order (M,), and mends its sorted keys where these need it.

    Ties share their mean rank. Returns the sum of the squares, which is 0 for a flat map; all of it is exact in a
    float64. `values` (M,) is written over.
    """
    patches, equal = len(keys), 0
    for k in range(1, patches):
        equal += (keys[k] ^ keys[k - 1]) <= mask
    if equal:
        _mend(keys, bits, mask, values)
        _share_ranks(values, ranks)
    else:
        for k in range(patches):
            ranks[k] = k - (patches - 1) / 2
    squares = 0.0
    for k in range(patches):
        squares += ranks[k] * ranks[k]
    return squares


@compiled
def _mend(keys: UInt32Array, bits: UInt32Array, mask: np.uint32, values: UInt32Array) -> None:
    """Puts sorted keys (M,) in the order of the whole values, whose bits it writes to `values`, rising."""
    last = np.uint32(len(keys) - 1)
    for k in range(len(keys)):
        values[k] = _bits_of(bits[last - (keys[k] & mask)])
    for k in range(1, len(keys)):
        value, key, at = values[k], keys[k], k
        while at > 0 and values[at - 1] > value:
            values[at], keys[at] = values[at - 1], keys[at - 1]
            at -= 1
        values[at], keys[at] = value, key


@compiled
def _share_ranks(values: UInt32Array, ranks: Float64Array) -> None:
    """Writes the ranks, less their mean, of rising values (M,); equal ones share theirs."""
    last, start = len(values) - 1, 0
    for k in range(last + 1):
        if k == last or values[k + 1] != values[k]:
            for m in range(start, k + 1):
                ranks[m] = (start + k - last) / 2
            start = k + 1


@compiled
def _compare_ranks(
    keys_a: UInt32Array,
    keys_b: UInt32Array,
    mask: np.uint32,
    ranks_a: Float64Array,
    ranks_b: Float64Array,
    top: int,
    position: Int64Array,
) -> tuple[float, int]:
    """The sum of products of two maps' ranks (M,), and how many of their `top` highest patches are the same.

    `position` (M,) is written over.
    """
    patches = len(keys_a)
    for k in range(patches):
        position[keys_a[k] & mask] = k
    products, common = 0.0, 0
    for k in range(patches):
        products += ranks_a[position[keys_b[k] & mask]] * ranks_b[k]
    for k in range(patches - top, patches):
        common += position[keys_b[k] & mask] >= patches - top
    return products, common
