"""Options that several commands share are on all of them."""

from __future__ import annotations

import click
import pytest

from jobs.commands import bench, compare, faithfulness, info, mine, test, visualize

COMMANDS = {
    "bench": bench.command,
    "compare": compare.command,
    "faithfulness": faithfulness.command,
    "info": info.command,
    "mine": mine.command,
    "test": test.command,
    "visualize": visualize.command,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_a_checkpoint_can_take_another_state_dict(name: str) -> None:
    options = {word for parameter in COMMANDS[name].params for word in parameter.opts}
    assert "--weights-key" in options
    assert "--image-size" in options or name == "faithfulness"  # it has the run's


def test_mine_hands_both_to_its_configuration() -> None:
    parameters = {parameter.name for parameter in mine.command.params if isinstance(parameter, click.Option)}
    assert {"weights_key", "image_size"} <= parameters


def test_what_mine_is_told_of_heads_and_cameras_bench_is_told_too() -> None:
    words = {"--head", "--sie-coe", "--trained-on", "--camera-map", "--camera"}
    for name in ("mine", "bench"):
        assert words <= {word for parameter in COMMANDS[name].params for word in parameter.opts}
