"""Half precision for the matrix products of the image tower's blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sclip_lab.network import tower
from sclip_lab.network.linear import QUICK_GELU, is_quick_gelu

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def lower_precision(model: Any, precision: str) -> None:
    """Matrix products of the image tower's blocks in half precision.

    Norms, the token stream between blocks, patch embedding, final projection and text tower stay
    as they are: they take little time, and rounding them costs more agreement with fp32 than all
    products together. Names are embedded once and cached. Against bf16 the first two blocks stay
    as well: all others inherit their errors, and each moves more labels than any later one.

    Args:
        model: an open_clip model, changed in place.
        precision: a key of ``PRECISIONS``.
    """
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return
    modules = tower.find("model", model).modules
    for module in modules[2 if dtype == torch.bfloat16 else 0 :]:
        _quick_gelu_to_silu(module.mlp)
        module.attn.to(dtype)
        module.mlp.to(dtype)


@torch.no_grad()
def _quick_gelu_to_silu(mlp: Any) -> None:
    """Quick GELU's factor moved into the layers around it: x sigmoid(a x) = silu(a x) / a.

    SiLU is one operation everywhere, and fused with the product before it, without rounding in
    between. To be done before weights are rounded.
    """
    if is_quick_gelu(getattr(mlp, "gelu", None)):
        mlp.gelu = nn.SiLU()
        mlp.c_fc.weight.mul_(QUICK_GELU)
        mlp.c_fc.bias.mul_(QUICK_GELU)
        mlp.c_proj.weight.div_(QUICK_GELU)
