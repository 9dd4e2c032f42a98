"""Change single bits in each kind of file that is read back; each change must be detected."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.torture.kills import CELLS, IMAGES, work
from sclip_lab.attention.projected import BELONGS, load_projection
from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.results.store import picture_files, spec_files
from sclip_lab.results.store.store import Store

DIGEST = "0123456789abcdef"


def flip(folder: Path, each: int, generator: random.Random) -> dict[str, Any]:
    """Flip ``each`` bits, one at a time, in each kind of file; count flips that reading misses."""
    counts: dict[str, Any] = {"flips": 0, "flips_undetected": 0, "named": 0}
    for path, read in _files(folder):
        whole = path.read_bytes()
        read()
        for _ in range(each):
            place = generator.randrange(len(whole) * 8)
            content = bytearray(whole)
            content[place // 8] ^= 1 << (place % 8)
            path.write_bytes(content)
            counts["flips"] += 1
            try:
                read()
            except LabError as error:
                counts["named" if str(path) in str(error) else "flips_undetected"] += 1
            else:
                counts["flips_undetected"] += 1
        path.write_bytes(whole)
        read()
    return counts


def _files(folder: Path) -> list[tuple[Path, Callable[[], Any]]]:
    """A file of each kind, and the function that reads it."""
    root, cell = folder / "store", CELLS[0]
    work(root)
    store = Store(root)
    place = store.directory(cell)
    rows, measures = next(place.glob("rows-*")), next(place.glob("diagnostics-*"))
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    picture_files.save(
        root, picture_files.PHOTO, DIGEST, IMAGES[0], image=image, mask=image[..., 0]
    )
    photo = next((root / "images").rglob("*.npz"))
    tokens = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    cache = TrunkCache(root / "trunk", 1.0)
    cache.save("key", tokens)
    trunk = root / "trunk" / "key.safetensors"
    text = root / "text" / "key.safetensors"
    files.write_tensors(text, {"text": tokens}, {"kind": "text", "key": "key"})
    projection = folder / "projection.safetensors"
    files.write_tensors(projection, {"projection": tokens}, BELONGS, {"per_head": "True"})
    prediction = next(place.glob("pictures/*.npz"))
    belongs = {"kind": "prediction", "spec": cell.key, "image": IMAGES[0]}
    if prediction.name != "photo%200.npz":
        belongs["image"] = IMAGES[1]
    of_photo = {"kind": "photo", "dataset": DIGEST[:12], "image": IMAGES[0]}
    return [
        (place / "spec.json", lambda: spec_files.read_record(place / "spec.json")),
        (rows, lambda: spec_files.read_one(rows, spec_files.COUNTS)),
        (measures, lambda: spec_files.read_one(measures, spec_files.MEASURES)),
        (text, lambda: files.read_tensors(text, {"kind": "text", "key": "key"})),
        (trunk, lambda: files.read_tensors(trunk, {"kind": "trunk", "key": "key"})),
        (projection, lambda: load_projection(str(projection))[0]),
        (prediction, lambda: files.read_arrays(prediction, belongs)),
        (photo, lambda: files.read_arrays(photo, of_photo)),
    ]
