"""A small run of three shards, and the command line on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests.support.made_runs import made_manifest, made_samples, made_shard

NAMES = ["gallery-000000", "gallery-000001", "query-000000"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Three shards of 40 samples, 4 of which have failed in each."""
    root = tmp_path / "RUN"
    manifest = made_manifest(root, NAMES)
    for number, name in enumerate(NAMES):
        made_shard(root, manifest, name, made_samples(40, 100 * number, seed=number), seed=number)
    return root


def promptsg(*words: object) -> tuple[int, str]:
    """The exit status and all output of `promptsg WORDS...`."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output
