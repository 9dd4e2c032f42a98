"""Losses by which patches learn who is their like: those of one colour, whatever they show.

CLIP's last queries and keys tell what belongs together; nothing in a small network's training asks
for it. Here late tokens, and queries and keys of two blocks, must tell the colour of their patch
through noise, and queries and keys nothing else. Colours are read by linear probes that are thrown
away after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.patchwork.tower import Outputs

CODES = 32  # values of a colour's code
SCALE = 60.0 / 68.0  # of the code: colours that far apart, in the input's units, have other codes
APART = 0.4  # distance of unit vectors; that of names that a network knows well is .45 and more
DROPPED = 0.5  # share of the values that a probe does not see


@dataclass(frozen=True)
class Weights:
    """Of the losses beside the class token's caption; ``quiet`` and ``noise`` are no weights.

    Attributes:
        read: of the caption read by patches.
        mixed: of `Outputs.mixed`. bent: of `Outputs.bent`.
        louder: of `Outputs.louder` above -``quiet``.
        late: of the colour that late tokens tell. keys: that queries and keys of the last block
            tell. early: the same of an early block, and that colour alone explains them.
        noise: deviation of the noise through which those of the early block are read; the others:
            1. The louder, the sharper attention has to be.
        small: of their mean square, in ``early``: the smaller, the flatter attention is.
        other: of what colour does not explain in queries and keys of the last block.
        flat: of their mean square, in ``keys``; as ``small``.
        apart: of `too_near` of the names.
    """

    read: float = 1.0
    mixed: float = 2.0
    bent: float = 1.0
    louder: float = 0.1
    quiet: float = 1.0
    late: float = 1.0
    keys: float = 0.7
    noise: float = 0.5
    small: float = 0.1
    early: float = 0.3
    other: float = 0.3
    flat: float = 0.0
    apart: float = 0.0


def code(colour: Tensor) -> Tensor:
    """Random Fourier features (Rahimi and Recht 2007) of colours: (..., 3) to (..., CODES)."""
    way = torch.randn(3, CODES // 2, generator=torch.Generator().manual_seed(0)) / SCALE
    angle = colour @ way
    return torch.cat([angle.cos(), angle.sin()], dim=-1) * 2**0.5


def too_near(names: Tensor) -> Tensor:
    """By how much names are nearer to each other than ``APART``, summed over their pairs.

    Names with one embedding ask nothing of the patches that would tell them apart, so they stay
    one; and with the distance itself, the loss pushes as hard there as anywhere.

    Args:
        names: (classes, embed_dim) unit vectors.
    """
    return F.relu(APART - torch.pdist(names)).sum()


class Grouping(nn.Module):
    """The probes, and the sum of the losses.

    Args:
        width: of the vision tower.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        names = ("late", "last_q", "last_k", "early")
        self.hear = nn.ModuleDict({name: nn.Linear(width, CODES) for name in names})
        self.tell = nn.ModuleDict({name: nn.Linear(CODES, width) for name in names[1:]})

    def forward(self, outputs: Outputs, weights: Weights) -> Tensor:
        """The weighted sum, a scalar; without the captions."""
        target = code(outputs.colour)
        last = dict(zip(("last_q", "last_k"), outputs.keys, strict=True))
        early = list(outputs.early)  # one map for both, so that queries find their keys
        losses = {
            "late": self._heard("late", outputs.late, target),
            "keys": sum(
                self._heard(name, values, target) + weights.flat * values.square().mean()
                for name, values in last.items()
            ),
            "other": sum(self._unexplained(name, values, target) for name, values in last.items()),
            "early": sum(
                self._heard("early", values, target, weights.noise)
                + self._unexplained("early", values, target)
                + weights.small * values.square().mean()
                for values in early
            ),
            "mixed": outputs.mixed,
            "bent": outputs.bent,
            "louder": F.relu(outputs.louder + weights.quiet).mean(),
        }
        weighted = [getattr(weights, name) * loss for name, loss in losses.items()]
        return torch.stack(weighted).sum()

    def _heard(self, name: str, values: Tensor, target: Tensor, noise: float = 1.0) -> Tensor:
        """How badly a probe reads the colour through noise."""
        noisy = F.dropout(values + noise * torch.randn_like(values), DROPPED)
        return F.mse_loss(self.hear[name](noisy), target)

    def _unexplained(self, name: str, values: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(values, self.tell[name](target))
