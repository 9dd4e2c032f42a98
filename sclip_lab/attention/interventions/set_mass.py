"""Set how much of a map falls on other classes; all proportions within either side stay."""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from sclip_lab.attention.interventions.sides import Sides, patches_of, with_patches
from sclip_lab.attention.variant import Map
from sclip_lab.core.functions import uses, weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context

log = logging.getLogger(__name__)
Scope = Literal["row", "class", "window"]
STEPS = 100  # of a bisection over 120 units of log odds, down to float64's precision


@uses("labels")
@weights_function
def set_mass(ctx: Context, base: Map, other: float | Map = 0.5, scope: Scope = "row") -> Weights:
    """A' = (1 - other) A|S / sum A|S + other A|O / sum A|O, times the row's labelled weight.

    S and O are the two sides of a row, see `Sides`. Rows without weight on one side stay.

    Args:
        base: A, the map of a variant.
        other: the share of O, 0 .. 1, or a variant whose map has the shares.
        scope: over what the share holds: each ``row``, or the mean over the rows of a ``class`` in
            a window, or over all rows of a ``window``. In the last two one number multiplies all
            odds O : S, so that rows keep their differences.
    """
    weights = base(ctx)
    patches, sides = patches_of(ctx, weights), Sides.of(ctx)
    share = sides.share(patches)
    if callable(other):
        target = sides.share(patches_of(ctx, other(ctx)))
        # A row without labelled weight in the other map has no share there, and keeps its own.
        target = torch.where(target.isnan(), share, target)
    else:
        within("other", other, 0, 1)
        target = torch.full_like(share, other)
    if scope != "row":
        label = ctx.labels.majority.to(share.device)
        target = _for_groups(share, target, label if scope == "class" else label.clamp(max=0))
    return with_patches(ctx, weights, with_share(patches, sides, target))


def with_share(patches: Tensor, sides: Sides, target: Tensor) -> Tensor:
    """Give the rows of ``patches`` the shares ``target``, (windows, heads, patches, 1), on O."""
    same, other = sides.mass(patches)
    movable = (same > 0) & (other > 0)
    has_both = sides.same.any(-1, keepdim=True) & sides.other.any(-1, keepdim=True)
    staying = float((~movable & has_both).sum() / has_both.expand_as(movable).sum().clamp_min(1))
    if staying > 0:
        _warn_of_rows_that_stay(f"{100 * staying:.0f}")
    total = same + other
    of_same = torch.where(movable, (1 - target) * total / same, 1.0)
    of_other = torch.where(movable, target * total / other, 1.0)
    return patches * torch.where(sides.same, of_same, torch.where(sides.other, of_other, 1.0))


@cache
def _warn_of_rows_that_stay(share: str) -> None:
    log.warning("set_mass: %s %% of the rows have no weight on one of their sides and stay", share)


def _for_groups(share: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Shares whose mean over each group is that of ``target``, by one factor on the odds."""
    result = target.clone()
    odds = torch.logit(share)  # infinite for rows that see one side alone; such rows stay
    for number in group.unique():
        if number < 0:  # rows of unknown class belong to no group
            continue
        rows = (group == number)[:, None, :, None] & odds.isfinite()
        count = rows.sum(2, keepdim=True).clamp_min(1)
        mean = torch.where(rows, target, 0.0).sum(2, keepdim=True) / count
        low, high = torch.full_like(mean, -60.0), torch.full_like(mean, 60.0)
        for _ in range(STEPS):
            middle = (low + high) / 2
            reached = torch.where(rows, torch.sigmoid(odds + middle), 0.0).sum(2, keepdim=True)
            below = reached / count < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        moved = torch.sigmoid(odds + (low + high) / 2)
        moved = torch.where((mean == 0) | (mean == 1), mean, moved)
        result = torch.where(rows, moved, result)
    return result
