"""Any other data set, by the user's own description: a regular expression over paths, or a CSV (no torch)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.datasets.folders import files_below
from jobs.datasets.keys import base_key
from jobs.datasets.listing import Listing, Record, path_below
from jobs.datasets.names import ParsedKey
from jobs.errors import UserError
from jobs.identity import ROLES, Who, who_is
from jobs.image_names import is_image
from jobs.phrases import shown
from jobs.text_files import read_text

SPLIT = re.compile(r"[A-Za-z0-9]+")  # the names of splits begin the names of shards
_INTEGER = re.compile(r"[+-]?[0-9]+")
_BITS = {"pid": 64, "camid": 32, "seq": 32, "frame": 64}  # of the metadata's columns


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the values of a description are meant.

    `camid` is that of all images, 0-based, where the description has none; else cameras count from `camid_base`.
    `renamed` are the names of splits that will be given others, so they may have any characters.
    """

    camid: int | None = None
    camid_base: int = 0
    renamed: frozenset[str] = frozenset()


def list_pattern(root: Path, pattern: str, reading: Reading = Reading()) -> Listing:
    """The images whose path below `root` matches a regular expression; links to folders are followed.

    Its named groups are pid and camid, optionally seq, frame, split (train without one), role and identity (else the
    default of jobs/identity.py). Raises UserError for a pattern without these groups, for a value that is not a number
    or not a role, and for a loop of links.
    """
    compiled = _compiled(pattern, reading)
    listing = Listing(dataset="pattern")
    for path in files_below(root):
        found = compiled.fullmatch(path.relative_to(root).as_posix())
        if not is_image(path):
            listing.add_stray(path)
        elif found is None:
            listing.unfit.append(path)
        elif path.is_file():
            listing.records.append(_record(path, found.groupdict(), f"--pattern on {shown(path)}", reading))
        else:
            listing.missing.append(path)
    return listing


def list_csv(root: Path, file: Path, reading: Reading = Reading()) -> Listing:
    """The images that a CSV of path,pid,camid,split (optionally seq,frame,role,identity) lists; paths are below `root`.

    Raises UserError naming the line that is wrong.
    """
    listing = Listing(dataset="csv")
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        _require_columns(file, rows.fieldnames or (), reading)
        for row in rows:
            where = f"{file}, line {rows.line_num}"
            path = path_below(root, row["path"] or "", where)
            listing.add_listed(_record(path, row, where, reading), where)
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.reader.line_num}: not CSV: {error}") from error
    return listing


def _require_columns(file: Path, names: Sequence[str], reading: Reading) -> None:
    needed = ["path", "pid", *(["camid"] if reading.camid is None else []), "split"]
    if not set(needed) <= set(names):
        raise UserError(f"{file}: the first line must name {','.join(needed)}; it is {shown(list(names) or None)}")
    if reading.camid is not None and "camid" in names:
        raise UserError(f"{file} has a column camid; leave out --camid")


def _compiled(pattern: str, reading: Reading) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern {pattern!r} is not a regular expression: {error}") from error
    names = compiled.groupindex.keys()
    if "pid" not in names or ("camid" not in names and reading.camid is None):
        raise UserError(f"--pattern {pattern!r} needs the named groups (?P<pid>...) and (?P<camid>...), or --camid")
    if "camid" in names and reading.camid is not None:
        raise UserError(f"--pattern {pattern!r} has the group camid; leave out --camid")
    return compiled


def _record(path: Path, fields: Mapping[str, str | None], where: str, reading: Reading) -> Record:
    pid, camid = _number(fields, "pid", where), _camera(fields, where, reading)
    seq, frame = _number(fields, "seq", where), _number(fields, "frame", where)
    if pid is None or camid is None:
        raise UserError(f"{where}: pid and camid must not be empty")
    split = fields.get("split") or "train"
    if not SPLIT.fullmatch(split) and split not in reading.renamed:
        raise UserError(
            f"{where}: the split {split!r} names shards, so it may have letters and digits only; "
            f"rename it with --split-map '{shown(split)}=NAME'"
        )
    parsed = ParsedKey(pid=pid, camid=camid, seq=seq, frame=frame)
    return Record(path=path, split=split, parsed=parsed, stated=_who(fields, pid, base_key(path), where))


def _who(fields: Mapping[str, str | None], pid: int, name: str, where: str) -> Who:
    """Who is on an image: what the fields role and identity say, and the default for the rest."""
    text = fields.get("role") or None
    role = next((known for known in ROLES if known == text), None)
    if role is None and text is not None:
        raise UserError(f"{where}: role is {text!r}, expected person, distractor or junk")
    return who_is(pid, name, role, fields.get("identity") or None)


def _camera(fields: Mapping[str, str | None], where: str, reading: Reading) -> int | None:
    """The 0-based camera. A single letter counts from a, as in PRID2011's `cam_a`."""
    text = (fields.get("camid") or "").strip()
    if reading.camid is not None:
        return reading.camid
    if len(text) == 1 and "a" <= text.lower() <= "z":
        return ord(text.lower()) - ord("a")
    camid = _number(fields, "camid", where)
    if camid is not None and 0 <= camid < reading.camid_base:
        raise UserError(f"{where}: camid is {camid}, so cameras do not count from {reading.camid_base} (--camid-base)")
    return None if camid is None else camid - reading.camid_base


def _number(fields: Mapping[str, str | None], name: str, where: str) -> int | None:
    text = (fields.get(name) or "").strip()
    if not text:
        return None
    if not _INTEGER.fullmatch(text):
        raise UserError(f"{where}: {name} is {text!r}, expected an integer")
    bound = 1 << (_BITS[name] - 1)
    if len(text) > 20 or not -bound <= int(text) < bound:
        raise UserError(f"{where}: {name} is {shown(text[:30])}, which is too large")
    return int(text)
