"""Half precision for the matrix products of the image tower's blocks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from sclip_lab.network.linear import QUICK_GELU, is_quick_gelu
from sclip_lab.network.rates import bf16_gain
from sclip_lab.network.tower import Tower

Precision = Literal["fp32", "bf16", "bf16_fast", "fp16"]
# Number of first blocks that ``bf16`` leaves in fp32, and the gain from which ``bf16_fast`` lowers
# them too.
KEPT_BLOCKS = 2
SEVERAL_TIMES = 3.0


def lower_precision(tower: Tower, precision: Precision) -> None:
    """Lower the precision of the matrix products of the image tower's blocks, in place.

    Norms, the token stream, patch embedding, final projection and text tower keep their precision:
    they take little time, and rounding them costs more agreement with fp32 than all products
    together. For bf16 the first two blocks keep it too: later blocks inherit their errors, and
    each of the two changes more labels than any later one. ``bf16_fast`` lowers them too where the
    machine multiplies bf16 several times as fast as fp32; elsewhere it is ``bf16``.
    """
    if precision == "fp32":
        return
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    in_fp32 = 0 if precision == "fp16" else KEPT_BLOCKS
    if (
        precision == "bf16_fast"
        and bf16_gain(next(tower.blocks[0].module.parameters()).device) >= SEVERAL_TIMES
    ):
        in_fp32 = 0
    for block in tower.blocks[in_fp32:]:
        _quick_gelu_to_silu(getattr(block.module, "mlp", None))
        for module in block.products:
            module.to(dtype)


@torch.no_grad()
def _quick_gelu_to_silu(mlp: Any) -> None:
    """Move QuickGELU's factor into the layers around it: x sigmoid(a x) = silu(a x) / a."""
    # SiLU can be fused with the product before it, without rounding in between.
    if is_quick_gelu(getattr(mlp, "gelu", None)):
        mlp.gelu = nn.SiLU()
        mlp.c_fc.weight.mul_(QUICK_GELU)
        mlp.c_fc.bias.mul_(QUICK_GELU)
        mlp.c_proj.weight.div_(QUICK_GELU)
