"""Who is who: whether an image shows a person, a distractor or junk, and which images show the same person.

This is the one place for that rule. A row that has the columns `role` and `identity` says it itself. For all others
the default is:

- pid -1 is junk.
- pid 0 is a distractor where the key has the form of Market-1501's or DukeMTMC-reID's names, which use 0 so.
- Every other image with a pid shows a person, and its identity is its pid, as text.
- Without a pid nothing is known.

Distractors, junk and unknown images have no identity: none of them matches any other image.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["person", "distractor", "junk"]
PERSON: Role = "person"
DISTRACTOR: Role = "distractor"
JUNK: Role = "junk"

_JUNK_PID, _DISTRACTOR_PID = -1, 0
# The base names of Market-1501 (0000_c1s1_000151_01) and DukeMTMC-reID (0000_c1_f0046182).
_USES_PID_0 = r"(?:^|/)\d{4,5}_c\d+(?:s\d+_\d+_\d+|_f\d+)[^/]*$"
_uses_pid_0 = re.compile(_USES_PID_0)


def role_of(pid: int | None, key: str) -> Role | None:
    """The default role of an image; None where there is no pid."""
    if pid is None:
        return None
    if pid == _JUNK_PID:
        return JUNK
    return DISTRACTOR if pid == _DISTRACTOR_PID and _uses_pid_0.search(key) else PERSON


def identity_of(pid: int | None, key: str) -> str | None:
    """The default identity of an image; None unless it shows a person."""
    return str(pid) if role_of(pid, key) == PERSON else None


def roles(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) text: the role of each row of a table with the columns `pid` and `key`; null where it is not known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "role" in rows.column_names:
        return rows["role"]
    pid = rows["pid"]
    role = pc.if_else(pc.equal(pid, _JUNK_PID), JUNK, PERSON)
    zero = pc.fill_null(pc.equal(pid, _DISTRACTOR_PID), False)
    if pc.any(zero).as_py():  # null for an empty column
        named = pc.match_substring_regex(rows["key"], _USES_PID_0)
        role = pc.if_else(pc.and_(zero, named), DISTRACTOR, role)
    return role if isinstance(role, pa.ChunkedArray) else pa.chunked_array([role])


def identities(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) text: who is on each row's image, of a table with the columns `pid` and `key`; null where nobody known is.

    Rows with the same text show the same person.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if "identity" in rows.column_names:
        return rows["identity"]
    person = pc.fill_null(pc.equal(roles(rows), PERSON), False)
    return pc.if_else(person, pc.cast(rows["pid"], pa.string()), pa.scalar(None, pa.string()))
