"""Label propagation over a graph of patches or pixels.

Zhou et al., NeurIPS 2003, and its use in LPOSS, Stojnic et al., CVPR 2025, arXiv 2503.19777: with
symmetric weights W, no self-loops, degrees D and Wn = D^-1/2 W D^-1/2, scores F solve

    (I - alpha Wn) F = Y

by a few steps of conjugate gradients for each class. Larger alpha spreads further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from scipy import sparse
from torch import Tensor

from sclip_lab.core.heap import trim_heap
from sclip_lab.core.values import within

# Values of a matrix between patches in memory at once; and bytes up to which weights of pixels
# are in double precision.
LARGEST = 1 << 23
DOUBLE_BYTES = 512 << 20
Pair = tuple[Sequence[slice], Sequence[slice]]
TOLERANCE = 1e-6  # of the residual, relative to the right-hand side


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], targets: Tensor, steps: int, tolerance: float = TOLERANCE
) -> Tensor:
    """(nodes, columns) solutions of A f = y for each column of ``targets``, from 0.

    ``product`` multiplies by A, which is symmetric and positive definite. It may write every result
    into the same memory, even into that of ``targets``. A column stops after ``steps``, or when the
    norm of its residual is below ``tolerance`` times the norm of its target.
    """
    # One block: in glibc's heap, large vectors that come and go leave holes between small ones.
    solution, residual, direction, scratch = targets.new_zeros(4, *targets.shape)
    residual.copy_(targets)
    direction.copy_(targets)
    squared = torch.square(residual, out=scratch).sum(dim=0)
    enough = tolerance * targets.norm(dim=0)
    for _ in range(steps):
        going = squared.sqrt() >= enough.clamp(min=torch.finfo(solution.dtype).tiny)
        if not bool(going.any()):
            break
        along = product(direction)
        curvature = torch.mul(direction, along, out=scratch).sum(dim=0)
        step = torch.where(going, squared / curvature, 0)
        solution.addcmul_(direction, step)
        residual.addcmul_(along, step, value=-1)
        before, squared = squared, torch.square(residual, out=scratch).sum(dim=0)
        direction.mul_(torch.where(going, squared / before, 0)).add_(residual)
    return solution


def patch_graph(
    features: Tensor,
    positions: Tensor,
    neighbours: int = 400,
    exponent: float = 3.0,
    distance_scale: float = 0.01,
    distance_power: float = 1.0,
) -> sparse.csr_array:
    """Wn of patches that are similar in features and near in the photo: (nodes, nodes) float64.

    Each node keeps its ``neighbours`` largest similarities, itself included, or all if there are
    fewer: W_ij = max(u_i . u_j, 0)^exponent * exp(-distance_scale * distance^distance_power). Wn is
    made of W + W^T without the diagonal.

    ``features`` are u, (nodes, channels), of unit norm; ``positions`` are the row and column of
    each patch's centre, (nodes, 2), in pixels of the resized photo.
    """
    nodes = len(features)
    step = max(1, LARGEST // nodes)
    largest = [(some @ features.T).topk(min(neighbours, nodes), dim=-1)
               for some in features.split(step)]  # fmt: skip
    similarities, index = (torch.cat(parts) for parts in zip(*largest, strict=True))
    offset = (positions[:, None].double() - positions[index].double()).square().sum(-1)
    near = torch.exp(-distance_scale * offset.pow(distance_power / 2))
    weights = similarities.double().clamp(min=0).pow(exponent) * near
    rows = torch.arange(nodes).repeat_interleave(index.shape[1])
    entries = (weights.flatten().cpu().numpy(), (rows.numpy(), index.flatten().cpu().numpy()))
    graph = sparse.coo_array(entries, shape=(nodes, nodes)).tocsr()
    graph = graph + graph.T
    graph.setdiag(0)
    graph.eliminate_zeros()
    scale = sparse.diags_array(_inverse_root(torch.from_numpy(graph.sum(axis=1))).numpy())
    return (scale @ graph @ scale).tocsr()


def propagate_over_patches(
    graph: sparse.csr_array, scores: Tensor, alpha: float = 0.95, steps: int = 10
) -> Tensor:
    """F of (I - alpha Wn) F = scores, (nodes, classes), float32 on the device of ``scores``.

    ``graph`` is Wn from `patch_graph`, alpha is in 0 .. 1 without 1, ``steps`` >= 1.
    """

    def product(x: Tensor) -> Tensor:
        return x - alpha * torch.from_numpy(graph @ x.numpy())

    _check(alpha, steps)
    return conjugate_gradients(product, scores.double().cpu(), steps).float().to(scores.device)


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
    _check(alpha, steps)
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
    planes, degree = _weights(colours.double(), pairs, tau)
    del colours  # what follows takes memory as well
    trim_heap()
    _normalise(planes, degree, pairs)
    del degree
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


def _weights(colours: Tensor, pairs: Sequence[Pair], tau: float) -> tuple[Tensor, Tensor]:
    """W of pairs of pixels, (pairs, height, width), at the place of each pair's first pixel; and
    the sums of W's rows, (height, width)."""
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
    return planes, degree


def _normalise(planes: Tensor, degree: Tensor, pairs: Sequence[Pair]) -> None:
    """Turn W of pairs of pixels into Wn, in place."""
    scale = _inverse_root(degree)
    for (here, there), plane in zip(pairs, planes, strict=True):
        for one, other, result in _in_rows(scale[here], scale[there], plane[here]):
            result *= (one * other).to(planes.dtype)


def _in_rows(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of maps (..., height, width), 128 rows each."""
    return zip(*(some.split(128, dim=-2) for some in maps), strict=True)


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


# IEC 61966-2-1 primaries, and the D65 white point.
_SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65 = (0.95047, 1.0, 1.08883)


def _pair(offset: tuple[int, int], height: int, width: int) -> Pair:
    """Slices of the pixels that have a neighbour at ``offset``, and slices of the neighbours."""
    y, x = offset
    rows = slice(0, height - y), slice(y, height)
    columns = slice(max(0, -x), width - max(0, x)), slice(max(0, x), width - max(0, -x))
    return (rows[0], columns[0]), (rows[1], columns[1])


def _inverse_root(degree: Tensor) -> Tensor:
    """D^-1/2; a node without neighbours counts as having degree 1."""
    return torch.where(degree > 0, degree, 1).rsqrt_()


def _check(alpha: float, steps: int) -> None:
    within("alpha", alpha, 0, 1, below=True)
    within("steps", steps, 1)
