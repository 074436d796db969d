"""Any other data set, by the user's own description: a regular expression over paths, or a CSV (no torch)."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from jobs.datasets.listing import Listing, Record, path_below
from jobs.datasets.names import ParsedKey
from jobs.errors import UserError
from jobs.image_names import is_image


def list_pattern(root: Path, pattern: str) -> Listing:
    """The images whose path below `root` matches a regular expression.

    Its named groups are pid and camid, optionally seq, frame and split (train without one). The camid is taken as it is
    written: 0-based if the names are. Raises UserError for a pattern without these groups, and for a value that is not
    a number.
    """
    compiled = _compiled(pattern)
    listing = Listing(dataset="pattern")
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found = compiled.fullmatch(path.relative_to(root).as_posix())
        if found is None or not is_image(path):
            listing.ignored.append(path)
        else:
            listing.records.append(_record(path, found.groupdict(), f"--pattern on {path}"))
    return listing


def list_csv(root: Path, file: Path) -> Listing:
    """The images that a CSV of path,pid,camid,split (optionally seq,frame) lists; paths are below `root`.

    Raises UserError naming the line that is wrong.
    """
    listing = Listing(dataset="csv")
    with file.open(newline="", encoding="utf-8-sig") as handle:
        rows = csv.DictReader(handle)
        if not {"path", "pid", "camid", "split"} <= set(rows.fieldnames or ()):
            raise UserError(f"{file}: the first line must name path,pid,camid,split; it is {rows.fieldnames}")
        for number, row in enumerate(rows, start=2):
            where = f"{file}, line {number}"
            path = path_below(root, row["path"] or "", where)
            if path.is_file():
                listing.records.append(_record(path, row, where))
            else:
                listing.missing.append(path)
    return listing


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern {pattern!r} is not a regular expression: {error}") from error
    if not {"pid", "camid"} <= compiled.groupindex.keys():
        raise UserError(f"--pattern {pattern!r} needs the named groups (?P<pid>...) and (?P<camid>...)")
    return compiled


def _record(path: Path, fields: Mapping[str, str | None], where: str) -> Record:
    pid, camid = _number(fields, "pid", where), _number(fields, "camid", where)
    seq, frame = _number(fields, "seq", where), _number(fields, "frame", where)
    if pid is None or camid is None:
        raise UserError(f"{where}: pid and camid must not be empty")
    split = fields.get("split") or "train"
    if not re.fullmatch(r"[A-Za-z0-9]+", split):
        raise UserError(f"{where}: the split {split!r} names shards, so it may have letters and digits only")
    return Record(path=path, split=split, parsed=ParsedKey(pid=pid, camid=camid, seq=seq, frame=frame))


def _number(fields: Mapping[str, str | None], name: str, where: str) -> int | None:
    text = fields.get(name)
    try:
        return int(text) if text else None
    except ValueError as error:
        raise UserError(f"{where}: {name} is {text!r}, expected an integer") from error
