"""PEARL's text-aware Laplacian propagation of logits (TLP).

arXiv 2603.21528, CVPR 2026. On a grid of about 80 cells a side, logits L become F with

    (D + Laplacian(w)) F = D L

where D is large for sure pixels, and the weights w of neighbouring pixels fall with their
difference in grey and grow if texts say that both are alike. Three properties of the official code
are the same here, since published numbers depend on them: only the diagonal of the affinity of
texts is used; 25 steps of conjugate gradients do not converge; and grey is computed from
normalised channels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.functions import refines_logits
from sclip_lab.core.values import within

Couple = Literal["diagonal", "full"]
GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue in luma, ITU-R BT.601


@refines_logits
def propagation(
    mask: Tensor,
    image: Tensor,
    text: Tensor | None = None,
    side: int = 80,
    steps: int = 25,
    edges: float = 5.0,
    couple: Couple = "diagonal",
) -> Tensor:
    """F of the module's equation, at the photo's size.

    Args:
        side: about how many cells a side of the grid has on which the equation is solved.
        steps: of conjugate gradients, without a stopping test.
        edges: how fast weights fall with grey differences.
        couple: how texts couple pixels: by the ``diagonal`` of their affinity, as released, or by
            the ``full`` matrix; without ``text`` there is no coupling.
    """
    within("side", side, 1)
    within("steps", steps, 0)
    size = mask.shape[-2:]
    # Python rounds halves to even.
    pool = max(1, round(size[0] / side)), max(1, round(size[1] / side))
    if max(pool) > 1:
        image, mask = F.avg_pool2d(image, pool), F.avg_pool2d(mask, pool)
    likeness = None if text is None else text_affinity(text, couple)
    solved = solve(mask, *system(image, mask, likeness, edges), steps)
    if max(pool) > 1:
        solved = F.interpolate(solved[None], size, mode="bilinear", align_corners=False)[0]
    return solved


def text_affinity(text: Tensor, couple: Couple = "diagonal") -> Tensor:
    """(queries, queries): row softmax of 2 T T^T, plus 10 on the diagonal, each row over its sum.

    ``text`` is T, (queries, embed_dim) unit rows. ``couple`` diagonal sets all else to 0.
    """
    affinity = torch.softmax(text @ text.T / 0.5, dim=-1)
    affinity = affinity + 10 * torch.eye(len(text)).to(affinity)
    affinity = affinity / (affinity.sum(-1, keepdim=True) + 1e-6)
    return torch.diag(affinity.diagonal()) if couple == "diagonal" else affinity


def system(
    image: Tensor, mask: Tensor, likeness: Tensor | None, edges: float = 5.0
) -> tuple[Tensor, Tensor, Tensor]:
    """D (height, width), and the weights w of right and of lower neighbours.

    The weights are (height, width - 1) and (height - 1, width).
    """
    p = torch.softmax(mask, dim=0)
    trust = p.amax(0).clamp_min(0.05).square()
    coupled = None if likeness is None else torch.einsum("cd,dhw->chw", likeness, p)
    if coupled is not None:
        trust = trust * (1 + (coupled * p).sum(0).clamp(0, 1))
    grey = torch.tensordot(torch.tensor(GREY).to(image), image, dims=1)
    weights = []
    for axis in (1, 0):
        count = grey.shape[axis]
        step = (grey.narrow(axis, 1, count - 1) - grey.narrow(axis, 0, count - 1)).abs()
        weight = torch.exp(-edges * step / (step.mean() + 1e-6)) if step.numel() else step
        if coupled is not None:
            near = p.narrow(axis + 1, 1, count - 1), coupled.narrow(axis + 1, 0, count - 1)
            weight = (weight * (1 + (near[0] * near[1]).sum(0).clamp(0, 1))).clamp(max=1)
        weights.append(weight)
    return trust, weights[0], weights[1]


def solve(mask: Tensor, trust: Tensor, right: Tensor, lower: Tensor, steps: int) -> Tensor:
    """Steps of conjugate gradients for (D + Laplacian) F = D L from F = L.

    Scalar products run over all queries and pixels together.
    """

    def applied(x: Tensor) -> Tensor:
        result = trust * x
        across = right * (x[..., :-1] - x[..., 1:])
        result[..., :-1] += across
        result[..., 1:] -= across
        down = lower * (x[..., :-1, :] - x[..., 1:, :])
        result[..., :-1, :] += down
        result[..., 1:, :] -= down
        return result

    solution = mask.clone()
    residual = trust * mask - applied(solution)
    direction, square = residual.clone(), residual.square().sum()
    for _ in range(steps):
        moved = applied(direction)
        length = square / ((direction * moved).sum() + 1e-12)
        solution += length * direction
        residual = residual - length * moved
        new = residual.square().sum()
        direction = residual + new / (square + 1e-12) * direction
        square = new
    return solution
