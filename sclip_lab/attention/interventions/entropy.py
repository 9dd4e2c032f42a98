"""Set how sharp a map is within either side of a row; the mass of both sides stays."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sclip_lab.attention.interventions.sides import Sides, patches_of, with_patches
from sclip_lab.attention.variant import Map
from sclip_lab.core.functions import uses, weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context

STEPS = 60
NOTHING = -1e15  # in place of the logarithm of 0: its powers are 0, its square is finite
WIDEST = 14.0  # bound on |log beta|: from nearly uniform to nearly one patch


@uses("labels")
@weights_function
def entropy(ctx: Context, base: Map, at: float | Map = 0.9) -> Weights:
    """Give each side of each row one temperature of its own, so that its entropy is ``at``.

    Weights of a side become proportional to their beta-th power: the order of patches stays.

    Args:
        base: the map of a variant.
        at: entropy of a side over that of a uniform one, 0 .. 1, or a variant whose map has the
            entropy of the same side. A side of one patch has none and stays. Where no beta reaches
            the target (equal largest weights, weights of 0), the nearest entropy is taken.
    """
    if not callable(at):
        within("at", at, 0, 1)
    weights = base(ctx)
    patches, sides = patches_of(ctx, weights), Sides.of(ctx)
    like = patches_of(ctx, at(ctx)) if callable(at) else patches.new_tensor(at)
    for side in (sides.same, sides.other):
        target = relative_entropy(like, side) if callable(at) else like
        patches = with_entropy(patches, side, target)
    return with_patches(ctx, weights, patches)


def relative_entropy(patches: Tensor, side: Tensor) -> Tensor:
    """Entropy of a side over the logarithm of its size: (windows, heads, patches, 1), 0 .. 1; NaN
    for a side of fewer than two patches, or without weight."""
    within_side = patches * side
    share = within_side / within_side.sum(-1, keepdim=True)
    size = side.sum(-1, keepdim=True)
    value = -torch.xlogy(share, share).sum(-1, keepdim=True) / size.double().log()
    return torch.where(size > 1, value, torch.nan)


def with_entropy(patches: Tensor, side: Tensor, target: Tensor) -> Tensor:
    """Change the sharpness of (windows, heads, patches, patches) weights on one side of each row.

    ``target`` is the new `relative_entropy`; where it is NaN the row stays.
    """
    mass = torch.where(side, patches, 0.0).sum(-1, keepdim=True)
    size = side.sum(-1, keepdim=True).double()
    changes = (size > 1) & (mass > 0) & ~target.isnan()
    logs = torch.where(side & changes, patches, 0.0).log()
    # The largest is 0, so that powers cannot overflow; what has no weight gets none.
    logs = torch.where(logs.isfinite(), logs - logs.amax(-1, keepdim=True), NOTHING)
    # The search sees rows that stay as uniform, with the entropy of a uniform row as their goal.
    logs = torch.where(changes, logs, 0.0)
    goal = torch.where(changes, target * size.log(), math.log(patches.shape[-1]))
    # Single precision comes near in half the time; double precision then needs a step or two.
    start = _log_beta(logs.float(), goal.float(), torch.zeros_like(goal).float(), 1e-4)
    log_beta = _log_beta(logs, goal, start.double(), 1e-9)
    powers = (log_beta.exp() * logs).exp_()
    moved = mass * powers / powers.sum(-1, keepdim=True)
    return torch.where(side & changes, moved, patches)


def _log_beta(logs: Tensor, goal: Tensor, start: Tensor, precision: float) -> Tensor:
    """The log beta at which softmax(beta * logs) has the entropy ``goal``, in nats."""
    low, high = torch.full_like(goal, -WIDEST), torch.full_like(goal, WIDEST)
    log_beta = start
    for _ in range(STEPS):
        beta = log_beta.exp()
        powers = (beta * logs).exp_()
        total = powers.sum(-1, keepdim=True)
        powers *= logs
        mean = powers.sum(-1, keepdim=True) / total
        variance = powers.mul_(logs).sum(-1, keepdim=True) / total - mean.square()
        missing = total.log() - beta * mean - goal
        if bool(((missing.abs() < precision) | (high - low < precision)).all()):
            break
        # Entropy falls as beta grows.
        low = torch.where(missing > 0, log_beta, low)
        high = torch.where(missing > 0, high, log_beta)
        step = log_beta + missing / (beta.square() * variance)
        # Newton's step, or the middle of the bracket where the step would leave it.
        inside = (step > low) & (step < high)
        settled = missing.abs() < precision
        following = torch.where(inside, step, (low + high) / 2)
        log_beta = torch.where(settled, log_beta, following)
    return log_beta
