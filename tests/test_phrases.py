"""Names as messages show them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.logs import setup_logging
from jobs.phrases import first_few, is_plain, json_text, one_line, shown, shown_lines


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg"),
        ("行人 ü.jpg", "行人 ü.jpg"),
        ("a\u3000b", "a\u3000b"),
        (os.fsdecode("行人".encode("gbk")), r"\xd0\xd0\xc8\xcb"),
        ("a\x1b[2Jb\r\n\0", r"a\x1b[2Jb\r\n\x00"),
        ("a\u2028b", r"a\u2028b"),
        ("a\x9b2Jb\x7f", r"a\x9b2Jb\x7f"),  # C1: a terminal may take it for ESC [
        ("evil\u202egpj.exe", r"evil\u202egpj.exe"),
        ("\u2066a\u2069\u200e", r"\u2066a\u2069\u200e"),
        ("क्‍ष", "क्‍ष"),  # a joiner changes no order
    ],
)
def test_names_are_shown_without_what_a_terminal_obeys(name: str, expected: str) -> None:
    assert shown(name) == expected
    assert shown(expected) == expected
    assert is_plain(name) == (name == expected)
    assert first_few([name, "b"], 1) == f"{expected}, ..."
    assert one_line(ValueError(name)) == shown(" ".join(name.split()))
    assert json.loads(json_text({"a": [name]})) == {"a": [name]}
    assert is_plain(json_text({"a": [name]}, indent=None))


def test_lines_and_tabs_stay_in_a_text_of_several_lines() -> None:
    assert shown_lines("a\tb\n\x1b[2Jc\r\n") == "a\tb\n\\x1b[2Jc\\r\n"
    assert json_text({"a": 1, "b": "x\ty"}) == '{\n "a": 1,\n "b": "x\\ty"\n}'


def test_errors_of_commands_and_lines_of_the_log_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "run\x1b]0;owned\x07"
    done = CliRunner().invoke(main, ["status", str(tmp_path / name)])
    assert done.exit_code == 1
    assert r"run\x1b]0;owned\x07 is not a run" in done.output
    assert "\x1b" not in done.output
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        setup_logging()
        logging.getLogger("jobs.test").warning("the shard %s", "a\x1b[2J\u202eb")
    finally:
        root.handlers[:], root.level = before, level
    assert capsys.readouterr().err.rstrip("\n").endswith(r"the shard a\x1b[2J\u202eb")
