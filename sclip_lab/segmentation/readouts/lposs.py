"""LPOSS: scores propagated over the patches of all windows of a photo.

LPOSS: Stojnic, Kalantidis, Matas, Tolias, CVPR 2025, arXiv 2503.19777. Cosines with texts flow
along a graph of patches. Two patches are connected if a second network finds them similar and they
are near in the photo. The second step, over pixels, is `sclip_lab.segmentation.refinements.lposs`.

Both are label propagation (Zhou et al., NeurIPS 2003): with symmetric weights W, no self-loops,
degrees D and Wn = D^-1/2 W D^-1/2, scores F solve

    (I - alpha Wn) F = Y

by a few steps of conjugate gradients for each class. Larger alpha spreads further.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import sparse
from torch import Tensor

from sclip_lab.core.functions import readout_function, uses
from sclip_lab.core.values import within
from sclip_lab.network.scene import Scene
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.readouts.cosine import cosine

LARGEST = 1 << 23  # values of a matrix between patches in memory at once
TOLERANCE = 1e-6  # of the residual, relative to the right-hand side


@uses("guidance", "photo")
@readout_function
def lposs(
    encoded: Encoded,
    text: Tensor,
    neighbours: int = 400,
    exponent: float = 3.0,
    distance_scale: float = 0.01,
    distance_power: float = 1.0,
    alpha: float = 0.95,
    steps: int = 10,
) -> Tensor:
    """Cosines propagated over the patches of each photo; values may be far above 1.

    Args:
        neighbours, exponent, distance_scale, distance_power: of `patch_graph`; distances in pixels
            of the resized photo. The official code fails on fewer patches than neighbours; here all
            are taken.
        alpha, steps: of `propagate_over_patches`.

    Raises:
        LabError: no guidance, or an alpha or number of steps out of range.
    """
    graph = (neighbours, exponent, distance_scale, distance_power)
    return propagated(cosine(encoded, text), encoded.scene, graph, alpha, steps)


def propagated(
    scores: Tensor, scene: Scene, graph: tuple[int, float, float, float], alpha: float, steps: int
) -> Tensor:
    """Scores (windows, grid_h, grid_w, queries) propagated within each photo of a scene.

    ``graph`` are the settings of `patch_graph`.
    """
    grid = scores.shape[1], scores.shape[2]
    features = scene.need_guidance("readout lposs").on(grid)
    result = torch.empty_like(scores)
    for photo in scene.photos:
        centres = photo.centres(grid).to(features.device)
        nodes = features[photo.windows].flatten(0, 1)
        of_photo = scores[photo.windows].flatten(0, 2)
        spread = propagate_over_patches(patch_graph(nodes, centres, *graph), of_photo, alpha, steps)
        result[photo.windows] = spread.view_as(result[photo.windows])
    return result


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
    scale = sparse.diags_array(inverse_root(torch.from_numpy(graph.sum(axis=1))).numpy())
    return (scale @ graph @ scale).tocsr()


def propagate_over_patches(
    graph: sparse.csr_array, scores: Tensor, alpha: float = 0.95, steps: int = 10
) -> Tensor:
    """F of (I - alpha Wn) F = scores, (nodes, classes), float32 on the device of ``scores``.

    ``graph`` is Wn from `patch_graph`, alpha is in 0 .. 1 without 1, ``steps`` >= 1.
    """

    within("alpha", alpha, 0, 1, below=True)
    within("steps", steps, 1)

    def product(x: Tensor) -> Tensor:
        return x - alpha * torch.from_numpy(graph @ x.numpy())

    return conjugate_gradients(product, scores.double().cpu(), steps).float().to(scores.device)


def conjugate_gradients(product: Callable[[Tensor], Tensor], targets: Tensor, steps: int) -> Tensor:
    """(nodes, columns) solutions of A f = y for each column of ``targets``, from 0.

    ``product`` multiplies by A, which is symmetric and positive definite. It may write every result
    into the same memory, even into that of ``targets``. A column stops after ``steps``, or when the
    norm of its residual is below `TOLERANCE` times the norm of its target.
    """
    # One block: in glibc's heap, large vectors that come and go leave holes between small ones.
    solution, residual, direction, scratch = targets.new_zeros(4, *targets.shape)
    residual.copy_(targets)
    direction.copy_(targets)
    squared = torch.square(residual, out=scratch).sum(dim=0)
    enough = TOLERANCE * targets.norm(dim=0)
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


def inverse_root(degree: Tensor) -> Tensor:
    """D^-1/2; a node without neighbours counts as having degree 1."""
    return torch.where(degree > 0, degree, 1).rsqrt()
