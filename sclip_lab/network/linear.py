"""Linear layers of a frozen network, with weights reordered once for the processor.

oneDNN's matrix kernels read weights in blocks. Given a plain matrix they reorder it in every call,
which takes about a tenth of the time of the product with the tokens of a photo. These kernels can
also apply an activation before the result is rounded to half precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Torch offers these two operations to its own compiler only, so they may be missing.
_ops = torch.ops.mkldnn
_AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(_ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)

# Quick GELU is x sigmoid(QUICK_GELU x).
QUICK_GELU = 1.702


class Linear:
    """Compute ``activation(x W^T + b)`` with the same weight many times.

    A new weight is reordered again. Results do not depend on the number of rows in one call.

    Args:
        keep: whether to keep the reordered copy, which is as large as the weight; else each call
            makes it anew.
    """

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep
        self._weight: Tensor | None = None
        self._version = -1
        self._blocks = torch.empty(0)

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
    ) -> Tensor:
        """(..., in) -> (..., out), with a weight (out, in) in the precision of ``x``, a bias (out,)
        or None, and an activation of the result or None."""
        fused = _fused(activation)
        if fused is None or not _packs(x):
            result = F.linear(x, weight, bias)
            return result if activation is None else activation(result)
        return _ops._linear_pointwise(x, self._laid_out(weight), bias, fused[0], [], fused[1])

    def _laid_out(self, weight: Tensor) -> Tensor:
        if not self.keep:
            return _ops._reorder_linear_weight(weight.detach().contiguous())
        # Holding the old weight keeps its address from being reused by another one.
        old, version = self._weight, 0 if weight.is_inference() else weight._version
        if old is None or old.data_ptr() != weight.data_ptr() or version != self._version:
            self._weight, self._version = weight.detach(), version
            self._blocks = _ops._reorder_linear_weight(self._weight.contiguous())
        return self._blocks


def is_quick_gelu(activation: nn.Module | None) -> bool:
    """Whether this is open_clip's QuickGELU, recognised by its class name."""
    return type(activation).__name__ == "QuickGELU"


def _packs(x: Tensor) -> bool:
    """Tell whether oneDNN has a kernel for ``x``. Its kernels compute no gradients."""
    if not _AVAILABLE or x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if x.dtype == torch.bfloat16:
        return bool(_ops._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32


def _fused(activation: nn.Module | None) -> tuple[str, str] | None:
    """Return oneDNN's names of an activation and of its algorithm, or None if it has none."""
    if activation is None:
        return "none", ""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    return ("swish", "") if isinstance(activation, nn.SiLU) else None
