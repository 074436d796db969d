"""What HTML reports are made of: a page that needs no other file, tables, figures inside, numbers with intervals."""

from __future__ import annotations

import base64
import html
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from jobs.phrases import shown, shown_lines
from jobs.statistics.question import Question


class WithEnds(Protocol):
    """A number with the ends of its interval; None where it is not defined."""

    @property
    def value(self) -> float | None:
        """The number."""

    @property
    def low(self) -> float | None:
        """The lower end."""

    @property
    def high(self) -> float | None:
        """The upper end."""


def whole_page(title: str, body: Sequence[str]) -> str:
    """One HTML page of these parts, which are HTML; the title is text."""
    return _PAGE.format(title=html.escape(shown(title)), body="\n".join(body))


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which may have lines. Without `heads` it has no row of heads."""
    top = "<tr>" + "".join(f"<th>{html.escape(shown(h))}</th>" for h in heads) + "</tr>" if heads else ""
    lines = ["<tr>" + "".join(f"<td>{html.escape(shown_lines(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<div class=wide><table>{top}{''.join(lines)}</table></div>"


def facts_html(facts: Mapping[str, str]) -> str:
    """What a report is about: a table of names and texts."""
    return html_table([], facts.items())


def grouped_by_text(question: Question) -> str:
    """What images are grouped by."""
    return ", ".join(key.name for key in question.by) or "nothing (one group)"


def chosen_text(question: Question) -> str:
    """Which images were chosen."""
    return question.where or "all with maps"


def resampling_text(question: Question, resamples: int) -> str:
    """How intervals were made."""
    return f"95 % bootstrap over identities, {resamples:,} resamples, seed {question.seed}"


def image_html(name: str, png: bytes) -> str:
    """A PNG inside of the page; `name` is safe to stand in an attribute."""
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def jpeg_html(name: str, jpeg: bytes) -> str:
    """A JPEG inside of the page; `name` is any text."""
    alt = html.escape(shown(name), quote=True)
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def command_html(words: Sequence[str]) -> str:
    """A command line as a shell takes it; one click selects all of it."""
    return f"<pre class=command>{html.escape(shown(shlex.join(words)))}</pre>"


def number_text(value: float | None) -> str:
    """Three digits; a dash for what is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def interval_text(value: float | None, low: float | None, high: float | None) -> str:
    """A number, and its interval on a second line where it has one."""
    if low is None or math.isnan(low):
        return number_text(value)
    return f"{number_text(value)}\n[{number_text(low)}, {number_text(high)}]"


def estimate_text(one: WithEnds) -> str:
    """A number, and its interval on a second line where it has one."""
    return interval_text(one.value, one.low, one.high)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.6em }} h2 {{ font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; padding: .25em .8em .25em 0; border-bottom: 1px solid #eee; vertical-align: top }}
th {{ vertical-align: bottom }} td {{ white-space: pre }}
.wide {{ overflow-x: auto }} .note {{ color: #555; max-width: 46em }}
img {{ max-width: 100%; display: block; margin: 1em 0 }}
.command {{ background: #f4f4f4; padding: .5em .8em; font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere;
 user-select: all }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1em; margin: 1em 0 }} .cards figure {{ margin: 0; width: 13em }}
.cards img {{ margin: 0 0 .3em; height: 128px; object-fit: contain; object-position: left }}
figcaption {{ font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }}
</style></head><body>
{body}
</body></html>
"""
