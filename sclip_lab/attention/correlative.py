"""Correlative self-attention (CSA).

SCLIP: Wang, Mei, Yuille, ECCV 2024, arXiv 2312.01597, eq. 3 and 4. A position attends to where its
own projection is similar: softmax(r r^T / t) with r = x W_r. The default adds the two softmaxes of
the trained query and key projections, so that rows sum to 2; beside the residual a sum is not the
same as a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context

Combine = Literal["sum", "mean"]


def combined(maps: Iterable[Tensor], combine: Combine) -> Tensor:
    """Sum or mean of attention maps of one shape, which may be made one by one.

    Raises:
        LabError: no map, or another way to combine them.
    """
    if combine not in ("sum", "mean"):
        raise unknown("combine", combine, ("sum", "mean"))
    total, count = None, 0
    for one in maps:
        total, count = one if total is None else total + one, count + 1
        del one  # of a large photo a map takes 60 MB
    if total is None:
        raise LabError("projections is empty; name at least one, as in [query, key]")
    return total / count if combine == "mean" and count > 1 else total


@weights_function
def correlative(
    ctx: Context,
    projections: Sequence[str] = ("query", "key"),
    combine: Combine = "sum",
    temperature: float = 1.0,
) -> Weights:
    """sum over r of softmax(r r^T / (temperature * sqrt(head_dim))).

    Rows sum to the number of projections, or to 1 for ``mean``.

    Args:
        projections: any of ``query``, ``key``, ``value``, and ``identity``, which is LN1's output
            cut into heads.
        combine: ``sum`` (the paper's) or ``mean``.
        temperature: > 0, in units of sqrt(head_dim).
    """
    within("temperature", temperature, 0, above=True)
    return combined((ctx.attention(r, r, temperature) for r in projections), combine)
