"""Annotation files with one json a photo: find the format and draw the regions as class ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data import labelme, supervisely
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.decode import pixel_limit


def read_annotation(
    content: bytes, class_ids: ClassIds, photo_size: tuple[int, int], source: object
) -> np.ndarray:
    """(height, width) class ids of one annotation file of Labelme or Supervisely.

    ``photo_size`` is used if the file does not state its size. All errors name ``source``.
    """
    try:
        annotation = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LabError(f"mask {source}: cannot be read as JSON ({error})") from error
    if not is_annotation(annotation):
        hint = ""
        if isinstance(annotation, Mapping) and {"images", "annotations"} <= set(annotation):
            hint = "; it looks like COCO's, one json for all: see _target_ sclip_lab.data.coco_json"
        raise LabError(f"mask {source}: is JSON, but neither Labelme's nor Supervisely's{hint}")
    reader = labelme if isinstance(annotation.get("shapes"), list) else supervisely
    try:
        size = reader.size(annotation) or photo_size
        if not 0 < size[0] * size[1] <= pixel_limit():
            raise LabError(f"size {size[1]} x {size[0]} is none of a photo that is read")
        regions = reader.regions(annotation, size)
        return class_ids.paint(size, ((class_ids.class_id(n, str(source)), r) for n, r in regions))
    except LabError as error:
        place = "" if str(source) in str(error) else f"mask {source}: "
        raise LabError(f"{place}{error}") from None
    except Exception as error:  # a json of a stranger may miss anything
        raise LabError(f"mask {source}: damaged ({error!r})") from error


def is_annotation(content: Any) -> bool:
    """Whether a json is Labelme's or Supervisely's."""
    if not isinstance(content, Mapping):
        return False
    objects = isinstance(content.get("objects"), list) and isinstance(content.get("size"), Mapping)
    return objects or isinstance(content.get("shapes"), list)
