"""Names beside points: each by its own point, none on another."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from sclip_lab.report.curves import label_points


def test_names_of_a_crowd_do_not_lie_on_each_other() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(0.6, 0.01, 12).tolist(), draw.normal(26, 0.3, 12).tolist()
    x, y = [*x, 0.0, 0.9], [*y, 42.0, 18.0]
    names = [f"variant_{k}" for k in range(len(x))]
    figure = Figure(figsize=(2.75, 2.75))
    ax = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    ax.plot(x, y, "o", markersize=3.5)
    ax.set_xlim(-0.1, 1.0)
    ax.set_ylim(15, 45)
    label_points(ax, x, y, names)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    extents = [Text.get_window_extent(text, canvas.get_renderer()) for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == sorted(names, key=lambda n: -y[names.index(n)])
    for one, other in itertools.combinations(extents, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(width, height) < 1.5  # pixels
    frame = ax.get_window_extent()
    assert all(frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2 for box in extents)
