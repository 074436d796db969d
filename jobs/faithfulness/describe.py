"""A faithfulness summary as text: the tables that `promptsg faithfulness` prints."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.faithfulness.summary import FaithfulnessSummary, MeanInterval


def describe(summary: FaithfulnessSummary) -> str:
    """The tables, without a line break at the end."""
    lines = [
        f"{summary.images} images of {summary.identities} identities; score: {summary.score}",
        f"{summary.patches} patches in {summary.steps} steps, highest first; blur sigma "
        f"{summary.blur_sigma_pixels:g} pixels; random: mean of {summary.random_orders} orders",
        "area under the curve [95 % over identities]; deletion: lower is better, insertion: higher is better",
    ]
    lines += [
        f"  {count} all-zero maps of {name}, whose order is that of the grid's rows"
        for name, count in summary.zero_maps.items()
        if count
    ]
    lines += ["", *_aligned(_faithfulness_rows(summary))]
    if summary.sanity:
        lines += [
            "",
            f"correlation with the stored maps of {summary.sanity[0].images} images, after weights were made random "
            "(near 0: the map depends on them)",
            *_aligned(_sanity_rows(summary)),
        ]
    return "\n".join(lines)


def _faithfulness_rows(summary: FaithfulnessSummary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("map", "kind", "fill", "area", "minus random")]
    for entry in summary.faithfulness:
        rows.append((entry.map, entry.kind, entry.fill, _interval(entry.auc), _interval(entry.difference, "+")))
    return rows


def _sanity_rows(summary: FaithfulnessSummary) -> list[tuple[str, ...]]:
    """The rows of one map together, in the order of the maps."""
    rows: list[tuple[str, ...]] = [("map", "random", "Pearson", "Spearman", "constant maps")]
    for name in summary.zero_maps:
        rows += [
            (name, entry.random, _interval(entry.pearson), _interval(entry.spearman), str(entry.constant_maps))
            for entry in summary.sanity
            if entry.map == name
        ]
    return rows


def _interval(value: MeanInterval | None, sign: str = "") -> str:
    """`0.123 [0.100, 0.150]`; a dash where the mean is not defined."""
    if value is None or value.mean is None:
        return "-"
    ends = "" if value.low is None or value.high is None else f" [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
    return f"{value.mean:{sign}.4f}{ends}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
