"""COCO's panoptic annotations (a png of segment ids and a json) to masks of class ids.

Format: Kirillov et al., Panoptic Segmentation, arXiv:1801.00868. A pixel's segment id is
R + 256 G + 256^2 B, and the json gives each segment its category. Classes are numbered in the
order of the json's categories (80 things, then 53 stuff); pixels without a segment are void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sclip_lab.core.errors import LabError, about
from sclip_lab.core.progress import Bar
from sclip_lab.data.conversion import remap
from sclip_lab.data.decode import json_content, read_image
from sclip_lab.data.paths import below

VOID = 255


def panoptic_to_mask(
    segment_png: np.ndarray, segments: Sequence[Mapping[str, Any]], classes: Mapping[int, int]
) -> np.ndarray:
    """(height, width) uint8 class ids of a (height, width, 3) panoptic png; VOID where it is black.

    ``segments`` is the annotation's ``segments_info``, ``classes`` is {category id: class id}. A
    segment or category that is in neither is an error.
    """
    if segment_png.ndim != 3 or segment_png.shape[2] != 3:
        raise LabError(f"panoptic png: shape is {segment_png.shape}; it must be (height, width, 3)")
    table = {0: VOID}
    for segment in segments:
        if segment["category_id"] not in classes:
            raise LabError(
                f"panoptic png: segment {segment['id']} has category {segment['category_id']}, "
                "which is not in the json"
            )
        table[int(segment["id"])] = classes[segment["category_id"]]
    return remap(segment_png.astype(np.int64) @ np.array([1, 256, 256**2]), table, "panoptic png")


def convert(annotations: Path, segment_folder: Path, mask_folder: Path) -> None:
    """Write ``<mask_folder>/<stem>.png`` for every annotation of a panoptic json."""
    with json_content(annotations, "panoptic json") as content:
        classes = {int(one["id"]): index for index, one in enumerate(content["categories"])}
        entries = content["annotations"]
    mask_folder.mkdir(parents=True, exist_ok=True)
    for entry in Bar(entries, desc="panoptic masks", unit="mask", delay=2, leave=False):
        source = below(segment_folder, entry["file_name"], annotations)
        target = below(mask_folder, entry["file_name"], annotations).with_suffix(".png")
        with about(source):
            mask = panoptic_to_mask(read_image(source), entry["segments_info"], classes)
        Image.fromarray(mask).save(target)
