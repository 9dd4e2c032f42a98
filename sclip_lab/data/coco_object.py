"""COCO instance annotations to COCO-Object masks: 0 background, 1..80 objects.

Crowds are drawn first, then instances from large to small, so that a small thing on a large one
stays visible. Polygons and run lengths are decoded by pycocotools (extra ``data``), because its
rule for boundary pixels is the one everybody's masks were made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.coco_ids import THINGS

OBJECT_IDS = {category: index for index, category in enumerate(THINGS, start=1)}


def instances_to_mask(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int
) -> np.ndarray:
    """One photo's instances in one mask.

    Args:
        annotations: entries of instances_*.json with category_id, area, iscrowd, segmentation.
        height, width: of the photo.

    Returns:
        (height, width) uint8: 0, or 1 .. 80 in the order of COCO's categories.

    Raises:
        LabError: pycocotools is missing, or a category is not one of COCO's 80.
    """
    mask = np.zeros((height, width), np.uint8)
    for entry in sorted(annotations, key=lambda a: (not a.get("iscrowd"), -a["area"])):
        category = entry["category_id"]
        if category not in OBJECT_IDS:
            raise LabError(f"annotation {entry.get('id')}: category {category} is no COCO object")
        mask[decode(entry["segmentation"], height, width)] = OBJECT_IDS[category]
    return mask


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool of polygons, or of run lengths, compressed or not."""
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise LabError(
            "COCO polygons need pycocotools: pip install 'sclip-lab[data]' (or give the pixel "
            "maps of stuffthingmaps_trainval2017.zip, which need nothing)"
        ) from error
    if isinstance(segmentation, list):
        runs = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = coco.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return coco.decode(runs).astype(bool)
