"""The names of the pictures that `promptsg render` writes: paths below its output folder, from a template."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.runs.run import Run

TEMPLATES = {"overlay": "{key}__{map}", "heatmap": "{key}__{map}", "panel": "{key}__panel", "ranked": "{key}__ranked"}
FIELDS = ("key", "shard", "pid", "camid", "map", "style")
_NAME_BYTES = 200


def picture_names(
    run: Run,
    table: pa.Table,
    places: Sequence[tuple[int, str | None]],
    *,
    style: str,
    form: str,
    name_template: str | None = None,
) -> list[str]:
    """A path below the output folder for each (row, map), no two the same and none that leads out of it.

    `style` is one of TEMPLATES, `form` the file's ending; `name_template` is the user's own in place of the style's.
    A key that several shards of the run have takes its shard's name in front, whatever was selected: so a picture has
    the same name each time. Raises UserError on a template with unknown fields, or one that names two pictures alike.
    """
    from cam.names import column_of
    from jobs.runs.query import keys_in_several_shards

    template = name_template or TEMPLATES[style]
    check_template(template)
    rows = table.select(["key", "shard", "pid", "camid"]).to_pylist()
    shared = set() if name_template else keys_in_several_shards(run, table["key"].to_pylist())
    names = []
    for row, map in places:
        values = {**rows[row], "map": column_of(map) if map else style, "style": style}
        one = f"{{shard}}__{template}" if values["key"] in shared else template
        names.append(file_name(one, values))
    twice = {name for name, count in Counter(name.casefold() for name in names).items() if count > 1}
    if twice and name_template:
        first = next(name for name in names if name.casefold() in twice)
        raise UserError(f"--name-template {template!r} names several pictures {first!r}; add {{key}}, {{shard}} or "
                        "{map}")  # fmt: skip
    for at, (row, _) in enumerate(places):
        if names[at].casefold() in twice:  # such as a/b beside a__b
            names[at] += f"~{_digest(rows[row]['shard'] + '/' + rows[row]['key'])}"
    return [f"{name}.{form}" for name in names]


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


def file_name(template: str, values: Mapping[str, Any]) -> str:
    """The template filled in: only its own slashes make folders, and each part is a safe name of at most 200 bytes."""
    parts = []
    for part in template.split("/"):
        try:
            text = part.format_map({name: "none" if value is None else value for name, value in values.items()})
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(f"--name-template: cannot fill in {part!r} for {values['key']!r}: {error}") from error
        parts.append(safe_name(text))
    return "/".join(parts)


def safe_name(text: str) -> str:
    """A name for one file: no separators, control characters, `..` or leading dot; shortened with a digest if long."""
    name = re.sub(r"[/\\]", "__", text)
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", name.encode("utf-8", "replace").decode())
    name = re.sub(r"\.\.+|^\.", "_", name).strip() or "_"
    if len(name.encode()) > _NAME_BYTES:
        name = f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}~{_digest(text)}"
    return name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
