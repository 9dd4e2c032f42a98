"""One photo with its label map laid over it, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.patches import Patch

from sclip_lab.report.figure import Figure
from sclip_lab.report.pictures import FONT


def labelled(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], palette: np.ndarray
) -> Figure:
    """Photo, and photo under its labels, with shares in the legend.

    Args:
        image: (height, width, 3) uint8. labels: (height, width) indices into ``names``.
        names: of classes. palette: (at least len(names), 3) uint8, their colours.
    """
    height, width = labels.shape
    shares = [float((labels == index).mean()) for index in range(len(names))]
    handles = [
        Patch(color=tuple(palette[index] / 255), label=f"{name}  {100 * shares[index]:.1f} %")
        for index, name in enumerate(names)
    ]
    with rc_context(FONT):
        size = (7.0, 3.5 * height / width + 0.3 + 0.18 * -(-len(names) // 4))
        figure = Figure(figsize=size, layout="constrained")
        axes: Any = figure.subplots(1, 2)
        axes[0].imshow(image)
        axes[1].imshow((0.35 * image + 0.65 * palette[labels]).astype(np.uint8))
        for ax in axes:
            ax.set_axis_off()
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure
