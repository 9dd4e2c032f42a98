"""The scene of a batch of windows: their places in their photos, a second network's features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Guidance, Placement, Scene, seen
from sclip_lab.segmentation.windows import Plan

if TYPE_CHECKING:
    from sclip_lab.network.guidance import Guide


def scene(
    images: Tensor,
    photos: Sequence[tuple[Plan, Tensor]],
    parts: Sequence[slice],
    backbone: Backbone,
    guide: Guide | None = None,
) -> Scene:
    """The scene of the windows of some photos.

    Args:
        images: (windows, 3, height, width), normalised; of each photo view after view.
        photos: each one's window geometry, and (3, *plan.resized), normalised.
        parts: which of ``images`` belong to each photo.
        backbone: whose statistics they are normalised with.
        guide: a second network; it looks at the windows when a variant asks for it.

    Raises:
        LabError: a second network that looks at whole photos, beside views of windows.
    """
    placements, sources = [], []
    for (plan, photo), part in zip(photos, parts, strict=True):
        for start in range(part.start, part.stop, plan.num_windows):
            windows = slice(start, start + plan.num_windows)
            size = plan.resized
            placements.append(Placement(windows, plan.corners, size, backbone.patch_size))
            sources.append(photo)
    if guide is None:
        return Scene(tuple(placements))
    look = partial(guide.of_windows, backbone=backbone)
    if guide.scope != "photo":
        return Scene(tuple(placements), seen(images, look))
    if len(placements) > len(parts):
        raise LabError("guidance.scope photo knows no views of windows; set guidance.scope=windows")
    size = images.shape[-2], images.shape[-1]

    def compute() -> Tensor:
        each = [
            guide.of_photo(photo, placement, size, backbone)
            for photo, placement in zip(sources, placements, strict=True)
        ]
        return torch.cat(each)

    return Scene(tuple(placements), Guidance(compute, look))
