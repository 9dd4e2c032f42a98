"""CLIP's own attention, softmax(q k^T / sqrt(d)), and its sharpened form.

Radford et al. 2021, arXiv 2103.00020. The sharpened form divides the scores by a temperature
below 1 (or flattens them with one above) and is an alternative that SCLIP, arXiv 2312.01597,
rejects in its ablation: making rows of vanilla attention more concentrated does not make them
depend on the position they belong to.
"""

from __future__ import annotations

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.network.context import Context


@weights_function
def vanilla(ctx: Context, temperature: float = 1.0) -> Weights:
    """softmax(q k^T / (temperature * sqrt(head_dim))).

    Args:
        ctx: the block as the variant sees it.
        temperature: > 0; below 1 sharpens, 1 is CLIP.

    Returns:
        (batch, heads, tokens, tokens); rows sum to 1.
    """
    if temperature <= 0:
        raise LabError(f"temperature {temperature} must be above 0")
    return ctx.attention("query", "key", temperature)
