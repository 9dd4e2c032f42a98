"""A figure without pyplot that a notebook shows by itself."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """matplotlib's figure, as a picture at the end of a notebook cell.

    Jupyter draws pyplot's figures only; these are nobody's until someone saves or shows them.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()


def paged(name: str, drawn: Sequence[Figure]) -> dict[str, Figure]:
    """Figures by file name: numbered where there are several."""
    if len(drawn) == 1:
        return {name: drawn[0]}
    return {f"{name}_{number}": figure for number, figure in enumerate(drawn, start=1)}
