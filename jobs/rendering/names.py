"""The names of the pictures that `promptsg render` writes: paths below its output folder."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cam.names import column_of
from jobs.errors import UserError
from jobs.phrases import is_plain

TEMPLATE = "{key}__{map}"  # unless the user gives one; where a picture shows no one map, {map} is the style
FIELDS = ("key", "shard", "pid", "camid", "map", "style", "number")
_NAME_BYTES = 200
_DIGITS = 4


@dataclass(frozen=True)
class NamedPicture:
    """What a template is filled in with: the metadata of the picture's first image, its one map or None, its number."""

    key: str
    shard: str
    pid: int | None
    camid: int | None
    map: str | None = None
    number: int = 1


def picture_names(
    pictures: Sequence[NamedPicture], *, style: str, template: str | None = None, shared_keys: frozenset[str]
) -> list[str]:
    """A path without an ending for each picture, no two the same and none that leads out of the output folder.

    `template` is the user's own, instead of TEMPLATE. `shared_keys` are the keys that several shards of the run have:
    these take the shard's name in front, whatever was selected, so that a picture always has the same name. The user's
    own template is taken as it is. Raises UserError on a template with unknown fields, or one that gives two pictures
    the same name.
    """
    check_template(template or TEMPLATE)
    names = [_fill_in(picture, style, template, shared_keys) for picture in pictures]
    twice = _more_than_once(names)
    if twice and template:
        first = next(name for name in names if name.casefold() in twice)
        raise UserError(
            f"--name-template {template!r} names several pictures {first!r}; add {{key}}, {{shard}} or {{map}}"
        )
    for at, picture in enumerate(pictures):
        if names[at].casefold() in twice:  # such as the keys a/b and a__b
            names[at] += f"~{_digest(f'{picture.shard}/{picture.key}')}"
    return names


def identity_names(identities: Iterable[str]) -> dict[str, str]:
    """Identity -> the name of its page without an ending, no two the same: `pid_0012__identity` for 12 and for 0012."""
    names = {identity: f"pid_{_padded(identity)}__identity" for identity in identities}
    twice = _more_than_once(names.values())
    return {
        identity: f"{name}~{_digest(identity)}" if name.casefold() in twice else name
        for identity, name in names.items()
    }


def numbered(number: int, count: int) -> str:
    """`0012`: a picture's number as its name has it, with as many digits as the largest of `count`, four at least."""
    return f"{number:0{max(_DIGITS, len(str(count)))}d}"


def check_template(template: str) -> None:
    """Raises UserError unless the template has only known fields and stays below the output folder."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError(f"--name-template {template!r}: {error}") from error
    if unknown := sorted(fields - set(FIELDS)):
        raise UserError(
            f"--name-template {template!r} has no field {{{unknown[0]}}}; fields are "
            + ", ".join(f"{{{name}}}" for name in FIELDS)
        )
    if any(part.strip() in ("", ".", "..") for part in template.split("/")):
        raise UserError(f"--name-template {template!r} leads out of the output folder; give a relative path without ..")


def safe_name(text: str) -> str:
    """A name for one file: no separators, characters that cannot be shown, `..` or leading dot.

    It is shortened with a digest if it is long.
    """
    name = re.sub(r"[/\\]", "__", text)
    name = re.sub(r'[<>:"|?*]', "_", name)
    if not is_plain(name):
        name = "".join(char if is_plain(char) else "_" for char in name)
    name = re.sub(r"\.\.+|^\.", "_", name).strip() or "_"
    if len(name.encode()) > _NAME_BYTES:
        name = f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}~{_digest(text)}"
    return name


def _fill_in(picture: NamedPicture, style: str, template: str | None, shared_keys: frozenset[str]) -> str:
    values = {
        "key": picture.key,
        "shard": picture.shard,
        "pid": "none" if picture.pid is None else picture.pid,
        "camid": "none" if picture.camid is None else picture.camid,
        "map": style if picture.map is None else column_of(picture.map),
        "style": style,
        "number": numbered(picture.number, 0),
    }
    if template is not None:
        return _file_name(template, values)
    in_front = "{shard}__" if picture.key in shared_keys else ""
    return _file_name(in_front + TEMPLATE, values)


def _file_name(template: str, values: Mapping[str, object]) -> str:
    """The template filled in: only its own slashes make folders, and each part is a safe name of at most 200 bytes."""
    parts = []
    for part in template.split("/"):
        try:
            text = part.format_map(values)
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(f"--name-template: cannot fill in {part!r} for {values['key']!r}: {error}") from error
        parts.append(safe_name(text))
    return "/".join(parts)


def _padded(identity: str) -> str:
    """An identity as part of a file's name: a number with at least four digits, any other text made safe."""
    return f"{int(identity):04d}" if identity.isdecimal() else safe_name(identity)


def _more_than_once(names: Iterable[str]) -> set[str]:
    """Names, in lower case, that occur more than once where upper and lower case are the same."""
    return {name for name, count in Counter(name.casefold() for name in names).items() if count > 1}


def _digest(text: str) -> str:
    """Eight characters that tell this text apart from others."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
