"""Json of Labelme or Supervisely, one a photo; later regions cover earlier ones.

Formats: https://github.com/wkentaro/labelme, https://docs.supervisely.com.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.data import polygons
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.decode import pixel_limit, read_mask

LARGEST_BITMAP = 1 << 28  # bytes of one object, unpacked
SIDES = ("Height", "Width")
Regions = Iterator[tuple[str, np.ndarray]]  # class and (height, width) bool, in drawing order


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
    try:
        if isinstance(annotation.get("shapes"), list):
            regions, stated = _labelme, [annotation.get(f"image{side}") for side in SIDES]
        else:
            regions, stated = _supervisely, [annotation["size"][side.lower()] for side in SIDES]
        size = (int(stated[0]), int(stated[1])) if all(stated) else photo_size
        if not 0 < size[0] * size[1] <= pixel_limit():
            raise LabError(f"size {size[1]} x {size[0]} is empty or too large for a photo")
        drawing = regions(annotation, size)
        return class_ids.paint(size, ((class_ids.class_id(n, str(source)), r) for n, r in drawing))
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


def _labelme(content: Mapping[str, Any], size: tuple[int, int]) -> Regions:
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


def _supervisely(content: Mapping[str, Any], size: tuple[int, int]) -> Regions:
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
