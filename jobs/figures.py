"""What all matplotlib figures share: the palette, a figure as PNG bytes, and the folder of a report's figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.atomic import make_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by readers with any colour vision; black comes last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_REPORT_DPI = 130


def png_of(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def write_figures(folder: Path, figures: Mapping[str, Figure], names: Sequence[str]) -> dict[str, bytes]:
    """Writes each figure as `<name>.png`, and returns them as PNG, by name.

    `names` are all that the report can have, with `*` for any text. Figures of an earlier report that this one does not
    have are removed, since they would be taken for its own. Other files in the folder stay.
    """
    assert all(any(fnmatch(name, pattern) for pattern in names) for name in figures)
    make_folder(folder)
    pictures = {name: png_of(figure, _REPORT_DPI) for name, figure in figures.items()}
    for name, picture in pictures.items():
        write_whole(folder / f"{name}.png", picture)
    for pattern in names:
        for path in folder.glob(f"{pattern}.png"):
            if path.stem not in pictures:
                path.unlink()
    return pictures
