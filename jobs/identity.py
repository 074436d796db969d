"""Who is who: whether an image shows a person, a distractor or junk, and which images show the same person.

This is the one place for that rule. The layout of a data set knows it best: it writes `role` and `identity` into the
JSON of a sample, and the metadata has them as columns. For what is not stated the default is:

- pid -1 is junk.
- pid 0 is a distractor where the key has the form of Market-1501's or DukeMTMC-reID's names, which use 0 so.
- Every other image with a pid shows a person, whose identity is the pid as names write it, with at least four digits.
- Without a pid nothing is known. A stated identity is that of a person.

Only persons have an identity. Distractors, junk and unknown images match no other image. Runs of the versions that did
not have the columns follow the same default; there an identity is the number alone, `2` instead of `0002`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from jobs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.arrays import Int64Array

Role = Literal["person", "distractor", "junk"]
PERSON: Role = "person"
DISTRACTOR: Role = "distractor"
JUNK: Role = "junk"
ROLES: tuple[Role, ...] = get_args(Role)
NOBODY = -1  # the code of an image without identity

_JUNK_PID, _DISTRACTOR_PID = -1, 0
# The base names of Market-1501 (0000_c1s1_000151_01) and DukeMTMC-reID (0000_c1_f0046182).
_USES_PID_0 = r"(?:^|/)[0-9]{4,5}_c[0-9]+(?:s[0-9]+_[0-9]+_[0-9]+|_f[0-9]+)[^/]*$"
_uses_pid_0 = re.compile(_USES_PID_0)
_NUMBER = r"^-?[0-9]{1,18}$"  # what an int64 holds in any case


def role_of(pid: int | None, key: str) -> Role | None:
    """The default role of an image; None where there is no pid."""
    if pid is None:
        return None
    if pid == _JUNK_PID:
        return JUNK
    return DISTRACTOR if pid == _DISTRACTOR_PID and _uses_pid_0.search(key) else PERSON


def identity_of(pid: int | None, key: str) -> str | None:
    """The identity of an image in a run without the columns; None unless it shows a person."""
    return str(pid) if role_of(pid, key) == PERSON else None


class Who(NamedTuple):
    """Who is on an image: its role, and its identity, which only persons have. None where it is not known."""

    role: Role | None
    identity: str | None


def who_is(pid: int | None, key: str, role: Role | None = None, identity: str | None = None) -> Who:
    """Who is on an image: what is stated counts, and the default for the rest."""
    if role is None:
        role = PERSON if identity is not None else role_of(pid, key)
    if role != PERSON:
        return Who(role, None)
    if identity is None and pid is not None and pid != _JUNK_PID:
        identity = identity_name(pid)
    return Who(role, identity)


def identity_name(pid: int) -> str:
    """The identity of a person who is known by the pid alone: `0002`, as in the names of data sets."""
    return f"{pid:04d}" if pid >= 0 else str(pid)


def training_classes(pids: Iterable[int]) -> dict[int, int]:
    """pid -> class: the rank of each training pid among the sorted distinct ones, from 0 on."""
    return {pid: rank for rank, pid in enumerate(sorted(set(pids)))}


def require_own_pids(people: Iterable[tuple[int, str | None]]) -> None:
    """Raises UserError unless each person among these (pid, identity) has one pid, and no two persons share one."""
    identity_of_pid: dict[int, str] = {}
    pid_of_identity: dict[str, int] = {}
    for pid, identity in people:
        if identity is None:
            continue
        other, first = identity_of_pid.setdefault(pid, identity), pid_of_identity.setdefault(identity, pid)
        if other != identity:
            problem = f"the pid {pid} stands for two persons, {other!r} and {identity!r}"
        elif first != pid:
            problem = f"the person {identity!r} has two pids, {first} and {pid}"
        else:
            continue
        raise UserError(f"{problem}, but classes are numbered by pid: give each person of the training split one pid")


def identity_columns(available: Collection[str]) -> list[str]:
    """The columns that `roles` and `identities` need, of a table with these columns."""
    if {"role", "identity"} <= set(available):
        return ["role", "identity"]
    return ["pid", "key", *(name for name in ("role", "identity") if name in available)]


def roles(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) text: the role of each row of a table with the columns of `identity_columns`; null where it is not known."""
    import pyarrow.compute as pc

    if "role" in rows.column_names:
        return rows["role"]
    pid = rows["pid"]
    role = pc.if_else(pc.equal(pid, _JUNK_PID), JUNK, PERSON)
    zero = pc.fill_null(pc.equal(pid, _DISTRACTOR_PID), False).combine_chunks()
    if pc.any(zero).as_py():  # null for an empty column
        uses_pid_0 = pc.match_substring_regex(rows["key"].filter(zero), _USES_PID_0)
        role = pc.replace_with_mask(role, zero, pc.if_else(uses_pid_0, DISTRACTOR, PERSON).combine_chunks())
    return role


def identities(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) text: who is on each row's image, of a table with the columns of `identity_columns`; null for nobody known.

    Rows with the same text show the same person.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(_known_identities(rows), pa.string())


@dataclass(frozen=True)
class IdentityCodes:
    """Identities as numbers: codes (N,) are the places of each row's identity in `names` (P,), or NOBODY.

    `names` are distinct and in order: those that are numbers by their value, then all others as texts.
    """

    codes: Int64Array
    names: pa.StringArray


def identity_codes(rows: pa.Table) -> IdentityCodes:
    """The identities of a table with the columns of `identity_columns` as numbers; quick for millions of rows."""
    return encode_identities(_known_identities(rows))


def encode_identities(column: pa.ChunkedArray) -> IdentityCodes:
    """A column of identities, texts or integers, as numbers; null is nobody."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column.dictionary_encode().combine_chunks()
    names = encoded.dictionary.cast(pa.string())
    keys = pa.table({"number": identity_numbers(names), "name": names})
    order = pc.sort_indices(keys, sort_keys=[("number", "ascending"), ("name", "ascending")])  # nulls last
    place = np.full(len(names) + 1, NOBODY, np.int64)  # the last one is that of null
    place[order.to_numpy()] = np.arange(len(names))
    codes = pc.fill_null(encoded.indices, len(names)).to_numpy()
    return IdentityCodes(place[codes], names.take(order))


def _known_identities(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) text or integers: who is on each row's image."""
    import pyarrow as pa
    import pyarrow.compute as pc

    person = pc.fill_null(pc.equal(roles(rows), PERSON), False)
    names = rows["identity"] if "identity" in rows.column_names else rows["pid"]
    return pc.if_else(person, names, pa.scalar(None, names.type))


def identity_numbers(names: pa.StringArray) -> pa.Int64Array:
    """(P,) the value of each identity that is a number, such as 2 of "0002"; null for all others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    number = pc.match_substring_regex(names, _NUMBER)
    return pc.cast(pc.if_else(number, names, pa.scalar(None, pa.string())), pa.int64())
