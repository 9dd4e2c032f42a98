"""The largest query of each pixel, and its index.

``torch.max`` with indices handles one value at a time on a CPU, ``amax`` eight or sixteen. So the
index is computed as a largest value too: of numbers that are 0 for the winners and far below 0 for
all others, plus a rank.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sclip_lab.core.shapes import Winner

# Differences of 1e-35 still count; larger ones may become -inf, which is also below 0.
STEEP = 1e38


def winner(logits: Float[Tensor, "queries height width"], scratch: Tensor) -> Winner:
    """Largest value over the queries, the first query that has it, and how far all are below it.

    ``logits`` are float32 and finite; ``scratch`` has at least as many values, contiguous. Both are
    overwritten. The index is int32, and ``logits - largest`` lies in ``scratch``.
    """
    below = scratch.flatten()[: logits.numel()].view(logits.shape)
    largest = logits.amax(dim=0)
    torch.sub(logits, largest, out=below)
    rank = torch.arange(len(logits), 0, -1, dtype=logits.dtype, device=logits.device)
    torch.add(rank.view(-1, 1, 1), below, alpha=STEEP, out=logits)
    return largest, len(logits) - logits.amax(dim=0).int(), below
