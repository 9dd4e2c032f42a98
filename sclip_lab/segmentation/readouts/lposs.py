"""LPOSS: scores propagated over the patches of all windows of a photo.

LPOSS: Stojnic, Kalantidis, Matas, Tolias, CVPR 2025, arXiv 2503.19777. Cosines with texts flow
along a graph of patches. Two patches are connected if a second network finds them similar and they
are near in the photo. The second step, over pixels, is `sclip_lab.segmentation.refinements.lposs`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sclip_lab.core.functions import readout_function, uses
from sclip_lab.network.scene import Scene
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.propagation import patch_graph, propagate_over_patches
from sclip_lab.segmentation.readouts.cosine import cosine


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
        neighbours, exponent, distance_scale, distance_power: of
            `sclip_lab.segmentation.propagation.patch_graph`; distances in pixels of the resized
            photo. The official code fails on fewer patches than neighbours; here all are taken.
        alpha, steps: of `sclip_lab.segmentation.propagation.propagate_over_patches`.

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
