"""Losses by which a patch learns which others are like it: those of its colour, whatever they show.

CLIP's last queries and keys tell what belongs together; nothing in a small network's training asks
for it. Here linear probes must read a patch's colour, through noise, from late tokens and from the
queries and keys of two blocks, and colour alone must explain these queries and keys. The probes are
thrown away after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.patchwork.tower import Outputs

CODES = 32  # values of a colour's code
SCALE = 60.0 / 68.0  # colours this far apart, in the input's units, have different codes
APART = 0.4  # distance of unit vectors; names that a network knows well are .45 or more apart
DROPPED = 0.5  # share of the values that a probe does not see


@dataclass(frozen=True)
class Weights:
    """Weights of all losses but the class token's caption; ``quiet`` and ``noise`` are no weights.

    Attributes:
        read: weight of the caption that patches read.
        mixed, bent: weights of `Outputs.mixed` and `Outputs.bent`.
        louder: weight of `Outputs.louder` above -``quiet``.
        late, keys: weights of reading colour from late tokens, and from queries and keys of the
            last block.
        early: weight of reading colour from queries and keys of an early block, and of what colour
            does not explain in them.
        noise: deviation of the noise through which the early block is read; elsewhere it is 1.
            The louder the noise, the sharper attention has to be.
        small: weight within ``early`` of the mean square of its queries and keys. The smaller that
            square, the flatter attention is.
        other: weight of what colour does not explain in queries and keys of the last block.
        flat: weight within ``keys`` of the mean square of these queries and keys, as ``small``.
        apart: weight of `too_near` of the names.
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

    Without this loss, names with one embedding keep it, for they do not ask patches to tell them
    apart. It grows linearly as names come nearer, so that it pushes as hard there as anywhere.

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
        """The weighted sum of all losses but those of captions and names, a scalar."""
        target = code(outputs.colour)
        last = dict(zip(("last_q", "last_k"), outputs.keys, strict=True))
        early = list(outputs.early)  # one probe for both, so that queries find their keys
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
