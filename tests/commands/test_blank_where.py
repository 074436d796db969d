"""A condition without content is refused by every command: an unset variable of a script must not mean all images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.conftest import promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard


@pytest.mark.parametrize("words", [["stats"], ["render", "--dry-run"], ["gallery", "--output", "page"]])
def test_a_blank_where_is_refused(tmp_path: Path, words: list[str]) -> None:
    made_shard(tmp_path, made_manifest(tmp_path, ["query-0"]), "query-0", made_samples(5))
    for blank in ("", "  "):
        code, said = promptsg(words[0], tmp_path, *words[1:], "--where", blank)
        assert (code, said) == (1, "promptsg: --where is empty; give an SQL expression, such as 'pid = 12'\n")
