"""A command of `promptsg`: its help has the options in groups, and `--shards` takes what a shell makes of a glob."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import click

from jobs.shards.names import PIPE

# Where an option stands in the help, by its long name; of each group the common ones come first.
GROUPS: dict[str, tuple[str, ...]] = {
    "What": (
        "--shards", "--checkpoint", "--query", "--gallery", "--dataset", "--maps", "--map", "--method", "--layer",
        "--output", "--style", "--by", "--target", "--target-class", "--label-map", "--reference",
        "--reference-split", "--prompt", "--prompt-set", "--attention-heads",
        "--other", "--masks", "--labels", "--attributes", "--add-maps", "--extend", "--init", "--scratch", "--config",
        "--set",
    ),
    "Which images": (
        "--where", "--order-by", "--limit", "--sample", "--keys", "--queries", "--evaluation", "--num", "--query-where",
        "--gallery-where", "--keep-same-camera", "--images", "--split", "--split-map", "--pattern", "--csv", "--camid",
        "--camid-base", "--follow-links",
    ),
    "The model": (
        "--weights-key", "--model-settings", "--model-set", "--image-size", "--prompt-mode", "--neck-feat", "--head",
        "--sie-coe", "--trained-on", "--camera-map", "--camera",
    ),
    "How it looks": (
        "--scale", "--colormap", "--alpha", "--fade", "--upsample", "--size", "--height", "--thumb-height", "--topk",
        "--per-page", "--format", "--name-template", "--per-camera", "--visualize",
    ),
    "The training": (
        "--steps", "--epochs", "--identities", "--images-each", "--stride", "--lr-tower", "--lr-new", "--lr-qk",
        "--optimizer", "--schedule", "--warmup", "--decay-epochs", "--weight-decay", "--id-weight",
        "--triplet-weight", "--unit-triplets", "--contrastive-weight", "--erase", "--weights",
    ),
    "The job": (
        "--array-tasks", "--max-running", "--gpus-per-task", "--cpus-per-task", "--time", "--finalize-time",
        "--partition", "--account", "--sbatch-arg", "--finalize-arg", "--max-requeues", "--drain-seconds",
    ),
    "How it runs": (
        "--device", "--precision", "--compile", "--batch-size", "--workers", "--memory", "--block", "--bootstrap",
        "--resamples", "--seed", "--overwrite", "--retry-failed", "--dry-run", "--shards-root", "--allow-remote",
        "--allow-pipes", "--array-index", "--array-count", "--drain-file", "--save-every", "--log-every",
        "--json", "--help",
    ),
}  # fmt: skip
_OTHERS = "More"
_FEW = 8  # options that are read at a glance, without groups
_TAR_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class PromptsgCommand(click.Command):
    """A click command with both."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Of `--shards a.tar b.tar c.tar`, as a shell writes an unquoted glob, each word is a value of --shards."""
        if any("--shards" in parameter.opts for parameter in self.params):
            args = each_with_shards(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by group, each group in the order of GROUPS."""
        shown = [(parameter, parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        records = {
            parameter.opts[-1]: record
            for parameter, record in shown
            if record is not None and isinstance(parameter, click.Option)
        }
        if len(records) <= _FEW:
            super().format_options(ctx, formatter)
            return
        grouped = {heading: [name for name in names if name in records] for heading, names in GROUPS.items()}
        placed = {name for names in grouped.values() for name in names}
        grouped[_OTHERS] = [name for name in records if name not in placed]
        for heading, names in grouped.items():
            if names:
                with formatter.section(heading):
                    formatter.write_dl([records[name] for name in names])


def each_with_shards(words: Sequence[str]) -> list[str]:
    """The words of a command line, with `--shards` before each tar that follows the value of another `--shards`."""
    found: list[str] = []
    follows = False  # whether the words since the last --shards are its values
    rest = iter(words)
    for word in rest:
        if word == "--shards":
            found += [word, *islice(rest, 1)]
            follows = True
        elif follows and _is_shard(word):
            found += ["--shards", word]
        else:
            found.append(word)
            follows = word.startswith("--shards=")
    return found


def _is_shard(word: str) -> bool:
    """Whether a word can only be meant as a shard: it ends as a tar does, is an address of one or a command."""
    path = word.partition("?")[0].lower()
    return not word.startswith("-") and (path.endswith(_TAR_ENDS) or word.startswith(PIPE) or _is_tar(word))


def _is_tar(word: str) -> bool:
    """Whether a file of another name is a tar, by the five letters that stand at byte 257."""
    try:
        with Path(word).open("rb") as file:
            return file.read(262)[257:262] == b"ustar"
    except (OSError, ValueError):
        return False
