"""What all commands have: options in groups, and `--shards` with the words that a shell makes of a glob."""

from __future__ import annotations

import ast
import tarfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs.cli import COMMANDS, main
from jobs.commands.options.command import GROUPS, PromptsgCommand, each_with_shards


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--shards a.tar b.tar c.tar.gz", "--shards a.tar --shards b.tar --shards c.tar.gz"),
        ("--shards a.tar b.tar --output RUN", "--shards a.tar --shards b.tar --output RUN"),
        ("--shards a.tar TEST.WEIGHT m.pth.tar", "--shards a.tar TEST.WEIGHT m.pth.tar"),  # a checkpoint, not a shard
        ("--shards=a.tar b.tar", "--shards=a.tar --shards b.tar"),
        ("--shards a.tar --shards b.tar c.tar", "--shards a.tar --shards b.tar --shards c.tar"),
        (
            "--shards a.tar https://host/b.tar?v=1 pipe:x",
            "--shards a.tar --shards https://host/b.tar?v=1 --shards pipe:x",
        ),
        ("--output RUN b.tar", "--output RUN b.tar"),
    ],
)
def test_words_after_shards_are_shards(words: str, expected: str) -> None:
    assert each_with_shards(words.split()) == expected.split()


def test_a_tar_of_another_name_is_a_shard_too(tmp_path: Path) -> None:
    path = tmp_path / "first.webdataset"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert each_with_shards(["--shards", "a.tar", str(path)]) == ["--shards", "a.tar", "--shards", str(path)]


def test_an_unquoted_glob_mines_every_shard(tmp_path: Path) -> None:
    """The error is about the checkpoint, which comes after the shards: no word is taken for a KEY or a VALUE."""
    for name in ("a.tar", "b.tar", "c.tar"):
        (tmp_path / name).touch()
    words = ["mine", "--shards", *(str(tmp_path / name) for name in ("a.tar", "b.tar", "c.tar")), "--output", "RUN"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "checkpoint is missing" in result.output


def test_no_option_stands_in_two_groups() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


def test_each_option_of_the_groups_is_one_of_a_command() -> None:
    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    there = {one for command in commands if command is not None for option in command.params for one in option.opts}
    assert {name for group in GROUPS.values() for name in group} - there == {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_the_options_in_groups_and_an_example(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, PromptsgCommand)
    said = CliRunner().invoke(main, [name, "--help"]).output
    assert "Example" in said
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    for option in options:
        assert said.count(f"  {option.opts[-1]}") >= 1 or any(f" {opt}" in said for opt in option.opts), option.opts
    if len(options) > 8:
        assert "What:" in said and "How it runs:" in said and "Options:" not in said


def test_what_takes_long_is_told_where_it_runs() -> None:
    """Nothing below `if TYPE_CHECKING` runs: a LongTask there tells nobody of anything."""
    told = set()
    for path in Path("jobs").rglob("*.py"):
        for block in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                assert not [one for one in ast.walk(block) if isinstance(one, ast.With)], path
            if isinstance(block, ast.With) and "loading what computes" in ast.unparse(block):
                told.add(path.stem)
    assert told >= {"render", "gallery", "stats", "diff", "localise", "evaluate"}
