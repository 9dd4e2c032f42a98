"""CSA with projections that CLIP does not have: random ones, and a learned one.

SCLIP, arXiv 2312.01597, section 4.3 (ablation of the projection W_r). Distribution, orthogonality,
seed, and whether a matrix serves one head or all, are not stated there; they are parameters here.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sclip_lab.attention.correlative import Combine, combined
from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import weights_function
from sclip_lab.core.shapes import Weights
from sclip_lab.core.values import LARGEST_SEED, within
from sclip_lab.network.context import Context, scores

Distribution = Literal["gaussian", "orthogonal"]
# The seal of a learned projection; the file itself names its network.
BELONGS = {"kind": "projection"}


@cache
def _matrix(width: int, distribution: Distribution, seed: int) -> Tensor:
    """(width, width) float32 with columns of expected norm 1, drawn on the CPU from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, width, generator=generator)
    if distribution == "gaussian":
        return gaussian * width**-0.5
    q, r = torch.linalg.qr(gaussian.double())
    return (q * torch.sign(torch.diagonal(r))).float()  # sign fix: uniform over O(width)


def self_attention(
    ctx: Context, matrix: Tensor, per_head: bool = True, temperature: float = 1.0
) -> Tensor:
    """softmax(r r^T / (temperature * sqrt(dim))) with r = LN1(x) W; gradients reach W.

    W is ``matrix``, (width, width). ``per_head`` cuts r into heads, dim = head_dim; otherwise one
    map of dim = width serves all heads. Returns (batch, heads, tokens, tokens).
    """
    projected = ctx.input.normed @ matrix.to(ctx.input.normed)
    if per_head:
        r = ctx.block.heads(projected)
        return ctx.softmax(ctx.scores(r, r, temperature))
    # One map of the full width: scores are divided by sqrt(width) instead of sqrt(head_dim).
    r = projected[:, None]
    weights = ctx.softmax(scores(r, r, ctx.block.width**-0.5 / temperature))
    return weights.expand(-1, ctx.block.num_heads, -1, -1)


@weights_function
def random(
    ctx: Context,
    distribution: Distribution = "gaussian",
    seed: int = 0,
    count: int = 1,
    per_head: bool = True,
    combine: Combine = "mean",
    temperature: float = 1.0,
) -> Weights:
    """CSA through ``count`` random projections of LN1's output.

    Args:
        distribution: ``gaussian`` (entries N(0, 1/width)) or ``orthogonal``.
        seed: of the first matrix; matrix i of block l is drawn from (seed, l, i).
        count: size of the ensemble.
        per_head: as in `self_attention`.
        combine: ``mean`` or ``sum`` over the ensemble.
        temperature: > 0.
    """
    within("seed", seed, 0, LARGEST_SEED)
    within("count", count, 1, 1009)  # beyond, two blocks would share matrices
    within("temperature", temperature, 0, above=True)
    maps = []
    for i in range(count):
        draw = ((seed * 1009 + ctx.block.index) * 1009 + i) % (LARGEST_SEED + 1)
        matrix = _matrix(ctx.block.width, distribution, draw)
        maps.append(self_attention(ctx, matrix, per_head, temperature))
    return combined(maps, combine)


@weights_function
def learned(
    ctx: Context, projection_file: str, per_head: bool = True, temperature: float = 1.0
) -> Weights:
    """CSA through a projection learned by ``sclip-lab learn-projection``; rows sum to 1.

    Args:
        projection_file: a safetensors file with one (width, width) tensor ``projection``. Its
            content, not its path, is part of a spec's key.
        per_head: as in `random`.
        temperature: > 0.

    Raises:
        LabError: the file is missing, its tensor does not fit this network, or it was learned with
            the other ``per_head``.
    """
    matrix, notes = load_projection(projection_file)
    if notes.get("per_head", str(per_head)) != str(per_head):
        raise LabError(
            f"{projection_file} was learned with per_head={notes['per_head']}, not {per_head}"
        )
    width = ctx.block.width
    if matrix.shape != (width, width):
        raise LabError(
            f"{projection_file}: projection of shape {tuple(matrix.shape)}, "
            f"but this network needs ({width}, {width})"
        )
    return self_attention(ctx, matrix, per_head, temperature)


def load_projection(path: str) -> tuple[Tensor, dict[str, str]]:
    """The tensor ``projection`` of a safetensors file, float32, and the file's notes.

    Raises:
        LabError: no such file or tensor, values that are not finite, or a file that changed after
            ``sclip-lab learn-projection`` wrote it. A file from elsewhere has no seal to check.
    """
    if not os.path.isfile(path):
        raise LabError(
            f"projection_file {path} does not exist; make it with 'sclip-lab learn-projection'"
        )
    try:
        tensors, notes = files.read_tensors(Path(path), BELONGS, foreign=True)
    except LabError as error:
        raise LabError(f"projection_file {error}") from None
    if "projection" not in tensors:
        raise LabError(f"projection_file {path} has {sorted(tensors)}, but no 'projection'")
    projection = tensors["projection"].float()
    if not torch.isfinite(projection).all():
        raise LabError(f"projection_file {path}: 'projection' has values that are not finite")
    return projection, notes
