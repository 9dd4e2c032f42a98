"""COCO's category ids, and instances as COCO-Object masks: 0 background, 1..80 objects.

Ids are 1..90 things and 91..182 stuff; eleven things were never released (Caesar et al.,
COCO-Stuff, CVPR 2018, and the categories of instances_val2017.json).

Crowds are drawn first, then instances from large to small, so that a small thing on a large one
stays visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.polygons import segmentation

UNRELEASED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
THINGS = tuple(i for i in range(1, 91) if i not in UNRELEASED)  # 80
STUFF = tuple(range(92, 183))  # 91
CATEGORIES = THINGS + STUFF  # 171, in the order every benchmark numbers them
OBJECT_IDS = {category: index for index, category in enumerate(THINGS, start=1)}


def instances_to_mask(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int
) -> np.ndarray:
    """(height, width) uint8: 0, or 1 .. 80 in the order of COCO's categories.

    ``annotations`` are a photo's entries of instances_*.json.

    Raises:
        LabError: a category is not one of COCO's 80, or a segmentation is damaged.
    """
    mask = np.zeros((height, width), np.uint8)
    for entry in sorted(annotations, key=lambda a: (not a.get("iscrowd"), -a["area"])):
        category = entry["category_id"]
        if category not in OBJECT_IDS:
            raise LabError(f"annotation {entry.get('id')}: category {category} is no COCO object")
        mask[segmentation(entry["segmentation"], (height, width))] = OBJECT_IDS[category]
    return mask
