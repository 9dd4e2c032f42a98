"""Linear layers of a frozen network, their weights laid out once for the processor.

oneDNN's matrix kernels read weights in blocks. From a plain matrix they make the blocks anew in
every call, about a tenth of the time of a product with the tokens of a photo; and only through
them can an activation be applied before the result is rounded to half precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What oneDNN applies to a product before writing it. Torch offers the two operations to its own
# compiler only, hence the look whether they are there.
_ops = torch.ops.mkldnn
_AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(_ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)

# Quick GELU is x sigmoid(QUICK_GELU x).
QUICK_GELU = 1.702


class Linear:
    """``activation(x W^T + b)``, to be called with the same weight every time.

    A second weight's layout replaces the first's. Results do not depend on how many rows are
    multiplied at once.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._version = -1
        self._blocks = torch.empty(0)

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
    ) -> Tensor:
        """
        Args:
            x: (..., in).
            weight: (out, in), in the precision of ``x``.
            bias: (out,) or None.
            activation: applied to the result.

        Returns:
            (..., out).
        """
        fused = _fused(activation)
        if fused is None or not _packs(x):
            result = F.linear(x, weight, bias)
            return result if activation is None else activation(result)
        return _ops._linear_pointwise(x, self._laid_out(weight), bias, fused[0], [], fused[1])

    def _laid_out(self, weight: Tensor) -> Tensor:
        # The old weight is kept, so that its address cannot become another's.
        old, version = self._weight, 0 if weight.is_inference() else weight._version
        if old is None or old.data_ptr() != weight.data_ptr() or version != self._version:
            self._weight, self._version = weight.detach(), version
            self._blocks = _ops._reorder_linear_weight(self._weight.contiguous())
        return self._blocks


def is_quick_gelu(activation: nn.Module | None) -> bool:
    """Whether it is open_clip's Quick GELU, told by its name."""
    return type(activation).__name__ == "QuickGELU"


def _packs(x: Tensor) -> bool:
    """Whether oneDNN has a kernel for these, and no gradient is asked of it."""
    if not _AVAILABLE or x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if x.dtype == torch.bfloat16:
        return bool(_ops._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32


def _fused(activation: nn.Module | None) -> tuple[str, str] | None:
    """oneDNN's name of an activation and of its algorithm; None where it has none."""
    if activation is None:
        return "none", ""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    return ("swish", "") if isinstance(activation, nn.SiLU) else None
