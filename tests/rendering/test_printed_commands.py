"""The commands for pictures that `evaluate` and `diff` print run as printed, and again after another evaluation."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from jobs.cli import main
from jobs.rendering.index.listed import read_list
from jobs.statistics.report.draw_command import DrawCommand
from tests.runs.test_query import make_run, random_maps
from tests.support.shard_files import market_shard


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a user is in, with tars/ and two runs over them, whose names a shell must quote."""
    market_shard(tmp_path / "tars/query-0.tar", 10)
    market_shard(tmp_path / "tars/gallery-0.tar", 10, first=20)

    def reversed_maps(shard: str, number: int) -> dict[str, NDArray[np.float32]]:
        return {name: values[::-1] for name, values in random_maps(shard, number).items()}

    make_run(tmp_path / "run a", tmp_path / "tars")
    make_run(tmp_path / "run b", tmp_path / "tars", reversed_maps)
    monkeypatch.setattr("jobs.comparison.report.files.draw_figures", lambda _: {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def promptsg(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def next_of(output: str) -> list[str]:
    """The words of the command that is printed."""
    (command,) = re.findall("^next: promptsg (.*)$", output, re.MULTILINE)
    return shlex.split(command)


def test_the_failures_can_be_drawn_again_after_another_evaluation(folder: Path) -> None:
    evaluate = ("evaluate", "run a", "--bootstrap", 5, "--gallery-where")
    first = next_of(promptsg(*evaluate, "split IN ('query', 'gallery')"))
    assert first[:2] == ["render", "run a"] and "pictures written" in promptsg(*first)
    keys = Path("run a/evaluation/failures.txt").read_text().split()
    again = next_of(promptsg(*evaluate, "split = 'query'", "--topk", 3))
    assert again == first and keys != (new := Path("run a/evaluation/failures.txt").read_text().split())
    promptsg(*again)
    assert [one.key for one in read_list(folder / "run a/evaluation/ranked")][: len(new)] == new
    promptsg(*again)


def test_diff_prints_one_command_for_the_terminal_and_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diff = ("diff", "run a", "run b", "--resamples", 10, "--changed", 4, "--map")
    first = next_of(promptsg(*diff, "mim_attention"))
    page = Path("run b/diff/report.html").read_text()
    assert "For shards that have moved add --shards-root FOLDER, for shards on a server --allow-remote." in page
    (command,) = re.findall("<pre class=command>(.*?)</pre>", page)
    absolute = shlex.split(html.unescape(command))
    whole = [str(folder / word) if word.startswith("run ") else word for word in first]
    assert absolute == ["promptsg", *whole]
    assert "4 pictures written" in promptsg(*first)
    again = next_of(promptsg(*diff, "gradcam++/mim"))
    assert [word for word in again if word not in first] == ["gradcam++/mim"]
    promptsg(*again)
    monkeypatch.chdir("/")
    promptsg(*absolute[1:])


def test_the_words_of_a_command() -> None:
    command = DrawCommand(
        run=Path("RUN"),
        keys=Path("a/k.txt"),
        output=Path("/o"),
        style="diff",
        other=Path("B"),
        map="m",
        limit=3,
        access=("--allow-remote",),
    )
    assert " ".join(command.words) == (
        "render RUN --style diff --other B --keys a/k.txt --map m --limit 3 --allow-remote --overwrite --output /o"
    )
    here = Path.cwd()
    page = DrawCommand(run=Path("RUN"), keys=Path("a/k.txt"), output=Path("o")).anywhere
    assert page == ["promptsg", "gallery", f"{here}/RUN", "--keys", f"{here}/a/k.txt", "--overwrite", "--output",
                    f"{here}/o"]  # fmt: skip
