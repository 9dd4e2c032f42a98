"""Muon in float32: momentum, made orthogonal, for the matrices inside the blocks.

The update of Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks, with
the settings of `torch.optim.Muon`. Torch's iterates in bfloat16, which takes several times as long
as float32 on a processor without bfloat16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.775, 2.0315)  # a, b, c of x -> a x + b x^3 + c x^5
STEPS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly: singular vectors stay, singular values go near 1.

    Args:
        matrix: (rows, columns), any scale; zeros stay zeros.

    Returns:
        (rows, columns) in the precision of ``matrix``. Singular values above a hundredth of its
        Frobenius norm become 0.68 .. 1.16; smaller ones stay smaller.
    """
    a, b, c = QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)  # a spectral norm above 1 would diverge
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, with decoupled weight decay.

    Args:
        params: matrices.
        lr: the update's size; times sqrt(rows / columns) where there are more rows than columns.
        weight_decay: share of a matrix that ``lr`` times this takes off each step.
        momentum: share of the past in the running mean of gradients.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient; return ``closure``'s loss, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss
