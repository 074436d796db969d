"""A count in a message agrees with its noun: `counted` of jobs/phrases.py writes it, and no `1 shards` is possible."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.imports import modules_below, tree_of

PLURAL = re.compile(
    r" (?!of |in )([a-z-]+ ){0,2}?(images|shards|maps|rows|keys|files|identities|persons|workers|cameras|queries"
    r"|groups|prompts|classes|pids|samples|steps|masks|tasks|tars|pairs|pictures)\b"
)
PERCENT = re.compile(rf"(%d of )?%[di]({PLURAL.pattern})")
# Numbers that are more than 1, and the number of a rank: an expression, and why.
PLAIN = {
    "_BLOCK": "256",
    "MAX_SAMPLES": "a limit",
    "_WORST_PAIRS": "5",
    "len(checks)": "told of more than one",
    "len(images)": "images that share a key",
    "tasks": "told of several",
    "ranks": "told of several",
    "environment.world_size": "told of several",
    "self._environment.rank": "which rank",
    "self.train + self.test": "more than 9999",
    "self.junk": "an option's value",
    "%d of %d images": "told of many",
}
MODULES = {name: path for name, path in modules_below().items() if name.startswith("jobs.")}


def plain_counts(tree: ast.AST) -> Iterator[str]:
    """Each value of an f-string that stands before a plural and is not made by `counted`, and each such `%d`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (found[0] for found in PERCENT.finditer(node.value))
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for value, behind in zip(node.values, [*node.values[1:], None], strict=True):
            text = behind.value if isinstance(behind, ast.Constant) else None
            if isinstance(value, ast.FormattedValue) and isinstance(text, str) and PLURAL.match(text):
                found = ast.unparse(value.value)
                if not before.endswith(" of ") and not found.startswith("counted(") and not is_text(found):
                    yield found
            before = str(value.value) if isinstance(value, ast.Constant) else ""


def is_text(expression: str) -> bool:
    """Whether it is a path, a name or the like, which a verb follows: `{folder} has files`."""
    text = r"path|root|folder|split|name|template|url|output|label_map|layout|text|what|manifest|identity|last"
    return re.search(text, expression) is not None


def test_no_message_can_say_1_shards() -> None:
    found = [
        f"{module}: {{{one}}}"
        for module, path in MODULES.items()
        for one in plain_counts(tree_of(path))
        if one not in PLAIN
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('f"{n} images in it"', ["n"]),
        ('f"{len(a):,} done shards"', ["len(a)"]),
        ('f"{done} of {total} shards are done"', []),
        ("f\"{counted(n, 'image')} of it, {n} of them read\"", []),
        ('f"{path} names maps"', []),
        ('logger.info("%d of %d shards are done", 1, 1)', ["%d of %d shards"]),
        ('logger.info("%s of it, step %d of %d", counted(n, "image"), 1, 2)', []),
    ],
)
def test_what_counts_as_a_plain_count(code: str, expected: list[str]) -> None:
    assert list(plain_counts(ast.parse(code))) == expected
