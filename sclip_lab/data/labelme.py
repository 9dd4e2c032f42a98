"""Labelme's json, one a photo; later shapes cover earlier ones.

Format: https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data import polygons
from sclip_lab.data.decode import read_mask


def size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the photo that was annotated, where the json says it."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (int(height), int(width)) if height and width else None


def regions(content: Mapping[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Each shape's label and (height, width) bool region, in drawing order; all need an area."""
    for shape in content["shapes"]:
        label, points = str(shape["label"]), shape["points"]
        kind = shape.get("shape_type") or "polygon"
        if kind == "polygon":
            region = polygons.polygon(points, size)
        elif kind == "rectangle":
            region = polygons.rectangle(points, size)
        elif kind == "circle":
            region = polygons.circle(points, size)
        elif kind == "mask":
            bitmap = read_mask("in the json", base64.b64decode(shape["mask"])) > 0
            left, top = (round(value) for value in points[0])
            region = polygons.pasted(bitmap, left, top, size)
        else:
            raise LabError(f"shape '{kind}' of label '{label}' has no area; remove it")
        yield label, region
