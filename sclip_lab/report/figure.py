"""A figure without pyplot that a notebook shows by itself."""

from __future__ import annotations

import io

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """matplotlib's figure, as a picture at the end of a notebook cell.

    Jupyter draws pyplot's figures only; these are nobody's until someone saves or shows them.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()
