"""Supervisely's json, one a photo; later objects cover earlier ones.

Format: https://docs.supervisely.com.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.data import polygons
from sclip_lab.data.decode import pixel_limit

LARGEST_BITMAP = 1 << 28  # bytes of one object, unpacked


def size(content: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the photo that was annotated."""
    return int(content["size"]["height"]), int(content["size"]["width"])


def regions(content: Mapping[str, Any], size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Each object's class and (height, width) bool region, in drawing order; all need an area."""
    for thing in content["objects"]:
        label, kind = str(thing["classTitle"]), thing["geometryType"]
        if kind == "bitmap":
            left, top = (int(value) for value in thing["bitmap"]["origin"])
            region = polygons.pasted(_bitmap(thing["bitmap"]["data"]), left, top, size)
        elif kind == "polygon":
            points = thing["points"]
            region = polygons.polygon(points["exterior"], size, points.get("interior") or ())
        elif kind == "rectangle":
            region = polygons.rectangle(thing["points"]["exterior"], size)
        else:
            raise LabError(f"object '{kind}' of class '{label}' has no area; remove it")
        yield label, region


def _bitmap(data: str) -> np.ndarray:
    """(rows, columns) bool from the base64 of a deflated png: its alpha or only channel."""
    unpacked = zlib.decompressobj().decompress(base64.b64decode(data), LARGEST_BITMAP)
    with Image.open(io.BytesIO(unpacked)) as image:
        if image.width * image.height > pixel_limit():
            raise LabError(f"a bitmap of {image.width} x {image.height} pixels is too large")
        transparent = image.mode == "P" and "transparency" in image.info
        bitmap = image.convert("RGBA") if transparent else image.copy()
    alpha = "A" in bitmap.getbands()
    return np.array(bitmap.getchannel("A") if alpha else bitmap.convert("L")) > 0
