"""CLIP's own attention, softmax(q k^T / sqrt(d)), and its sharpened form.

Radford et al. 2021, arXiv 2103.00020. The sharpened form divides the scores by a temperature below
1 (above 1 flattens them). SCLIP, arXiv 2312.01597, rejects it in its ablation: concentrated rows of
vanilla attention still do not depend on their own position.
"""

from __future__ import annotations

from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import within
from sclip_lab.network.context import Context


@weights_function
def vanilla(ctx: Context, temperature: float = 1.0) -> Weights:
    """softmax(q k^T / (temperature * sqrt(head_dim))); rows sum to 1.

    Args:
        temperature: > 0; below 1 sharpens, 1 is CLIP.
    """
    within("temperature", temperature, 0, above=True)
    return ctx.attention("query", "key", temperature)
