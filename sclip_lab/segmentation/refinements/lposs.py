"""LPOSS's second step: logits propagated over the pixels of the photo, at the photo's size.

Stojnic, Kalantidis, Matas, Tolias, CVPR 2025, arXiv 2503.19777; see
`sclip_lab.segmentation.readouts.lposs` for the equation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sclip_lab.core.functions import refines_logits
from sclip_lab.core.heap import trim_heap
from sclip_lab.core.values import within
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.readouts.lposs import conjugate_gradients, inverse_root

Pair = tuple[Sequence[slice], Sequence[slice]]
DOUBLE_BYTES = 512 << 20  # up to which weights of pixels are in double precision
# IEC 61966-2-1 primaries, and the D65 white point.
_SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65 = (0.95047, 1.0, 1.08883)


@refines_logits
def lposs(
    mask: Tensor,
    image: Tensor,
    backbone: Backbone,
    radius: int = 6,
    tau: float = 0.01,
    alpha: float = 0.95,
    steps: int = 10,
) -> Tensor:
    """Logits propagated among pixels of like colour within ``radius`` rows and columns.

    Colours are CIE L*a*b*. The result is float32; values may be far above 1. ``radius``, ``tau``,
    ``alpha`` and ``steps`` are those of `propagate_over_pixels`;
    ``backbone`` has the channel statistics. A float32 ``mask`` is overwritten by the result.
    """
    colours, mask = lab(backbone.pixels(image) / 255), mask.float()
    return propagate_over_pixels(colours, mask, radius, tau, alpha, steps, out=mask)


def propagate_over_pixels(
    colours: Tensor,
    scores: Tensor,
    radius: int = 6,
    tau: float = 0.01,
    alpha: float = 0.95,
    steps: int = 10,
    out: Tensor | None = None,
) -> Tensor:
    """F of (I - alpha Wn) F = scores on a graph of pixels at most ``radius`` rows and columns apart
    with W_ij = exp(-|colour_i - colour_j| / tau): (classes, height, width) float32.

    Each offset is one plane of weights, so memory is ((2 radius + 1)^2 - 1) / 2 planes (in single
    precision if double would take more than half a gigabyte) and five times the scores of one
    class, since classes are solved one by one.

    ``colours`` are (channels, height, width), ``scores`` (classes, height, width); ``tau`` is in
    units of the colours. ``out`` takes the result; it may be ``scores``.
    """
    within("alpha", alpha, 0, 1, below=True)
    within("steps", steps, 1)
    within("radius", radius, 1)
    within("tau", tau, 0, above=True)
    height, width = colours.shape[-2:]
    pairs = [
        _pair((y, x), height, width)
        for y in range(radius + 1)
        for x in range(-radius, radius + 1)
        if (y, x) > (0, 0) and y < height and abs(x) < width
    ]
    trim_heap()
    planes = _planes(colours.double(), pairs, tau)
    del colours  # the solution takes memory as well
    trim_heap()
    vector = planes.new_empty(height, width, dtype=torch.float64)

    def product(x: Tensor) -> Tensor:
        x = x.view(height, width)
        vector.copy_(x)
        for (here, there), plane in zip(pairs, planes, strict=True):
            for to, of in (here, there), (there, here):
                for sums, values, weights in _in_rows(vector[to], x[of], plane[here]):
                    sums.addcmul_(values, weights, value=-alpha)
        return vector.view(-1, 1)

    if out is None:
        out = torch.empty(scores.shape, device=scores.device)
    for of_class, solved in zip(scores, out, strict=True):
        vector.copy_(of_class)
        solved[:] = conjugate_gradients(product, vector.view(-1, 1), steps).view_as(solved)
    return out


def _planes(colours: Tensor, pairs: Sequence[Pair], tau: float) -> Tensor:
    """Wn of pairs of pixels, (pairs, height, width), at the place of each pair's first pixel."""
    degree = colours.new_zeros(colours.shape[-2:])
    precision = torch.float64 if len(pairs) * degree.nbytes <= DOUBLE_BYTES else torch.float32
    # Each large block is made once: blocks of several sizes leave holes in the heap.
    planes = degree.new_empty((len(pairs), *degree.shape), dtype=precision)
    weights = torch.empty_like(degree)
    for (here, there), plane in zip(pairs, planes, strict=True):
        for one, other, result in _in_rows(colours[:, *here], colours[:, *there], weights[here]):
            result[:] = torch.exp((one - other).norm(dim=0) / -tau)
        degree[here] += weights[here]
        degree[there] += weights[here]
        plane[here] = weights[here]
    scale = inverse_root(degree)
    for (here, there), plane in zip(pairs, planes, strict=True):
        for one, other, result in _in_rows(scale[here], scale[there], plane[here]):
            result *= (one * other).to(precision)
    return planes


def _in_rows(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of maps (..., height, width), 128 rows each."""
    return zip(*(some.split(128, dim=-2) for some in maps), strict=True)


def _pair(offset: tuple[int, int], height: int, width: int) -> Pair:
    """Slices of the pixels that have a neighbour at ``offset``, and slices of the neighbours."""
    y, x = offset
    rows = slice(0, height - y), slice(y, height)
    columns = slice(max(0, -x), width - max(0, x)), slice(max(0, x), width - max(0, -x))
    return (rows[0], columns[0]), (rows[1], columns[1])


def lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB, in units of (100, 128, 128).

    (3, height, width) in 0 .. 1 -> (3, height, width) float64.
    """
    rgb = rgb.double().clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).pow(2.4), rgb / 12.92)
    to_xyz = torch.tensor(_SRGB_TO_XYZ, dtype=linear.dtype, device=linear.device)
    white = torch.tensor(_D65, dtype=linear.dtype, device=linear.device)
    xyz = torch.einsum("ij,jhw->ihw", to_xyz, linear) / white.view(3, 1, 1)
    cube = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856).pow(1 / 3), 7.787 * xyz + 4 / 29)
    x, y, z = cube
    return torch.stack([(116 * y - 16) / 100, 500 * (x - y) / 128, 200 * (y - z) / 128])
