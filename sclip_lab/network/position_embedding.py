"""Position embeddings for a grid of another size than the one trained on.

Official implementations differ, and the choice changes features by up to 40 % of their standard
deviation. So each rule has a name. tests/network/test_position_embedding.py compares the rules with
the outputs of the codes that are named in ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError, unknown

Rule = Callable[[Tensor, tuple[int, int]], Tensor]


def _offset(table: Tensor, grid: tuple[int, int]) -> Tensor:
    # DINO adds 0.1 so that rounding down loses no row. It also shifts every sampling coordinate.
    sides = zip(grid, table.shape[-2:], strict=True)
    factor = [(new + 0.1) / trained for new, trained in sides]
    return F.interpolate(table, scale_factor=factor, mode="bicubic", recompute_scale_factor=False)


def _bilinear_half(table: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(table, grid, mode="bilinear").half().to(table.dtype)


RULES: dict[str, Rule] = {
    "bicubic_offset": _offset,  # SCLIP, NACLIP, ResCLIP, SC-CLIP, SFP, ITACLIP, ClearCLIP, ...
    "bicubic": partial(F.interpolate, mode="bicubic"),  # MaskCLIP
    "bicubic_antialias": partial(F.interpolate, mode="bicubic", antialias=True),  # GEM, open_clip
    "bilinear": partial(F.interpolate, mode="bilinear"),  # CLIP Surgery
    "bilinear_half": _bilinear_half,  # CLIPer, which rounds to half precision
}
DEFAULT_RULE = "bicubic_offset"


def interpolate(
    embedding: Tensor, trained: tuple[int, int], grid: tuple[int, int], rule: str = DEFAULT_RULE
) -> Tensor:
    """Resize position embeddings from the trained grid to another one, by a key of ``RULES``.

    Args:
        embedding: (1 + trained_h * trained_w, width), the class token's row first.
        trained, grid: (grid_h, grid_w) of the training images and of the images at hand.

    Returns:
        (1 + grid_h * grid_w, width), in the input's precision.

    Raises:
        LabError: unknown rule, or an embedding whose length does not fit ``trained``.
    """
    if rule not in RULES:
        raise unknown("position_embedding", rule, RULES)
    if len(embedding) != 1 + trained[0] * trained[1]:
        raise LabError(f"{len(embedding)} position embeddings do not fit 1 + grid {trained}")
    # The official code with the offset compares numbers of tokens only: a 7 x 28 grid keeps the
    # embeddings of 14 x 14 as they are. We reproduce its numbers, so this stays.
    same = trained[0] * trained[1] == grid[0] * grid[1]
    if tuple(trained) == tuple(grid) or (same and rule == "bicubic_offset"):
        return embedding
    table = embedding[1:].float().T.reshape(1, -1, *trained)
    patches = RULES[rule](table, grid)[0].flatten(1).T
    return torch.cat([embedding[:1], patches.to(embedding.dtype)])
