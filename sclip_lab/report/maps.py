"""How alike the attention maps of two variants are, from the pictures that a store keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns

from sclip_lab.report.figure import Figure
from sclip_lab.report.figures import style
from sclip_lab.report.found import Found


def map_correlations(found: Found, specs: Sequence[str]) -> pd.DataFrame | None:
    """Pearson correlation of attention maps, averaged over the chosen points of all photos.

    Args:
        found: has pictures with attention maps. specs: whose maps, in order.

    Returns:
        specs' names by specs' names, each in -1 .. 1; None where fewer than two have maps.
    """
    maps: dict[str, list[np.ndarray]] = {spec: [] for spec in specs}
    for panel in found.panels:
        by_spec = {p.spec: p.attention for p in panel.predictions if p.attention is not None}
        if set(specs) <= by_spec.keys():
            for spec in specs:
                maps[spec] += list(by_spec[spec].reshape(len(by_spec[spec]), -1))
    kept = [spec for spec in specs if maps[spec]]
    if len(kept) < 2:
        return None
    standard = {spec: np.stack([_standardised(m) for m in maps[spec]]) for spec in kept}
    values = [[float((standard[a] * standard[b]).mean()) for b in kept] for a in kept]
    names = [str(found.name(spec)) for spec in kept]
    return pd.DataFrame(values, index=names, columns=names)


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float64) - values.mean()
    spread = centred.std()
    return centred / spread if spread > 0 else centred


def correlation_figure(correlations: pd.DataFrame) -> Figure:
    """Heat map of `map_correlations`."""
    size = 1.8 + 0.42 * len(correlations)
    with style():
        figure = Figure(figsize=(size + 0.8, size), layout="constrained")
        ax = figure.subplots()
        sns.heatmap(
            correlations, ax=ax, vmin=-1, vmax=1, cmap="vlag", annot=True, fmt=".2f", square=True,
            annot_kws={"fontsize": 6}, cbar_kws={"label": "correlation", "shrink": 0.7},
        )  # fmt: skip
        ax.set_title("attention maps of two variants\n(mean over heads, chosen points)")
        ax.tick_params(length=0)
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
        figure.set_label("how alike the maps of two variants are; 1: they look at the same places")
    return figure
