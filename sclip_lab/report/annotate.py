"""Names beside points that do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

STEPS = 14  # places to try above and below a point


def label_points(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    size: tuple[float, float],
    fontsize: float = 5.0,
) -> None:
    """Write a name beside each point, where neither another name nor a point lies; a thin line
    leads from a name that had to move. Limits of the axes stay as they are.

    Args:
        ax: with its limits set. x, y: of the points. names: of the points.
        size: width and height of the axes in inches, as far as known.
        fontsize: in points.
    """
    points = np.column_stack([_shares(ax, x, 0), _shares(ax, y, 1)])
    line = fontsize * 1.1 / 72 / size[1]
    dot = 0.035 * 2.0 / min(size)
    taken = [(u - dot / 2, v - dot / 2, u + dot / 2, v + dot / 2) for u, v in points]
    for index in np.argsort(-points[:, 1], kind="stable"):
        (u, v), name = points[index], names[index]
        width = 0.56 * fontsize * len(name) / 72 / size[0]
        box, side = _free(u, v, width, line, dot, taken)
        taken.append(box)
        middle = (box[1] + box[3]) / 2
        edge = box[0] if side == "left" else box[2]
        moved = abs(middle - v) > line
        ax.annotate(
            name, (u, v), (edge, middle), "axes fraction", "axes fraction", fontsize=fontsize,
            ha=side, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
            if moved
            else None,
        )  # fmt: skip


def _shares(ax: Axes, values: Sequence[float], axis: int) -> np.ndarray:
    """Places along an axis as shares of its length."""
    scale = (ax.xaxis, ax.yaxis)[axis].get_transform()
    low, high = scale.transform(np.array((ax.get_xlim(), ax.get_ylim())[axis], float))
    return (scale.transform(np.asarray(values, float)) - low) / (high - low)


def _free(
    u: float,
    v: float,
    width: float,
    line: float,
    dot: float,
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], str]:
    """The nearest free place of a name, and on which side of it the point lies."""
    best, least = None, np.inf
    for step in range(-STEPS, STEPS + 1):
        for side in ("left", "right"):
            left = u + dot if side == "left" else u - dot - width
            low = v + step * line / 2 - line / 2
            box = (left, low, left + width, low + line)
            out = max(0.0, -box[0], box[2] - 1, -box[1], box[3] - 1)
            covered = sum(_overlap(box, other) for other in taken)
            cost = 300 * out + 400 * covered / (width * line) + abs(step) + (side == "right")
            if cost < least:
                best, least = (box, side), cost
    assert best is not None
    return best


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)
