"""The two sides of a row: patches of its own class, and patches of other classes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from sclip_lab.network.context import Context
from sclip_lab.network.truth import UNKNOWN


@dataclass(frozen=True)
class Sides:
    """Which patches are on which side of each row.

    Attributes:
        same: S, the patches of the row's class, with the row's own patch.
        other: O, the patches of other classes. A patch of unknown class is on neither side of any
            row, and its own row has no sides.
    """

    same: Bool[Tensor, "windows 1 patches patches"]
    other: Bool[Tensor, "windows 1 patches patches"]

    @classmethod
    def of(cls, ctx: Context) -> Sides:
        """Compare the majority classes of patches, once for all variants on one input."""

        def make() -> Sides:
            label = ctx.labels.majority.to(ctx.tokens.device)
            labelled = label != UNKNOWN
            labelled = (labelled[:, :, None] & labelled[:, None])[:, None]
            same = (label[:, :, None] == label[:, None])[:, None]
            return cls(same & labelled, ~same & labelled)

        return ctx.input.once("sides", make)

    def mass(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weight on S and on O: (windows, heads, patches, 1) each."""
        return tuple((weights * side).sum(-1, keepdim=True) for side in (self.same, self.other))  # type: ignore[return-value]

    def share(self, weights: Tensor) -> Tensor:
        """Share of a row's labelled weight that falls on O: (windows, heads, patches, 1), 0 .. 1;
        NaN for a row without labelled weight."""
        same, other = self.mass(weights)
        return other / (same + other)


def patches_of(ctx: Context, weights: Tensor) -> Tensor:
    """Weights between patches in float64: (windows, heads, patches, patches)."""
    prefix = ctx.block.prefix
    return weights[..., prefix:, prefix:].double()


def with_patches(ctx: Context, weights: Tensor, patches: Tensor) -> Tensor:
    """``weights`` with other weights between patches; the class token's row and column stay."""
    prefix = ctx.block.prefix
    result = weights.expand(-1, patches.shape[1], -1, -1).clone()
    result[..., prefix:, prefix:] = patches.to(result)
    return result


def around_patches(ctx: Context, patches: Tensor, row_sum: float = 1.0) -> Tensor:
    """Make a whole map of weights between patches: no patch attends to the class token, whose row
    is the network's own.

    ``patches`` are (windows or 1, 1, patches, patches) with rows that sum to 1, which ``row_sum``
    multiplies.
    """
    weights = ctx.input.attention().clone()
    prefix = ctx.block.prefix
    weights[..., prefix:, :prefix] = 0
    weights[..., prefix:, prefix:] = (row_sum * patches).to(weights)
    return weights
