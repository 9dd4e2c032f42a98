"""Single bits changed in every kind of file that is read back: found, or no number changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.torture.kills import CELLS, IMAGES, work
from sclip_lab.attention.projected import BELONGS, load_projection
from sclip_lab.core import sealed
from sclip_lab.core.errors import LabError
from sclip_lab.evaluation.trunk_cache import TrunkCache
from sclip_lab.results.store import cells, chunks, panels
from sclip_lab.results.store.store import Store

DIGEST = "0123456789abcdef"


def flip(folder: Path, each: int, generator: random.Random) -> dict[str, Any]:
    """``each`` flips in each kind of file, read as the laboratory reads it."""
    found: dict[str, Any] = {"flips": 0, "flips_undetected": 0, "named": 0, "changed_nothing": 0}
    for path, read in _files(folder):
        whole, sound = path.read_bytes(), read()
        for _ in range(each):
            place = generator.randrange(len(whole) * 8)
            content = bytearray(whole)
            content[place // 8] ^= 1 << (place % 8)
            path.write_bytes(content)
            found["flips"] += 1
            try:
                same = _equal(read(), sound)
            except LabError as error:
                found["named" if str(path) in str(error) else "flips_undetected"] += 1
                continue
            found["changed_nothing" if same else "flips_undetected"] += 1
        path.write_bytes(whole)
        _equal(read(), sound)
    return found


def _files(folder: Path) -> list[tuple[Path, Callable[[], Any]]]:
    """A file of each kind, and what reads it."""
    root, cell = folder / "store", CELLS[0]
    work(root)
    store = Store(root)
    place = store.directory(cell)
    rows, measures = next(place.glob("rows-*")), next(place.glob("diagnostics-*"))
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    panels.save_image(root, DIGEST, IMAGES[0], image, image[..., 0])
    photo = next((root / "images").rglob("*.npz"))
    tokens = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    cache = TrunkCache(root / "trunk", 1.0)
    cache.save("key", tokens)
    trunk = root / "trunk" / "key.safetensors"
    text = root / "text" / "key.safetensors"
    sealed.write_tensors(text, {"text": tokens}, {"kind": "text", "key": "key"})
    projection = folder / "projection.safetensors"
    sealed.write_tensors(projection, {"projection": tokens}, BELONGS, {"per_head": "True"})
    prediction = next(place.glob("panels/*.npz"))
    belongs = {"kind": "prediction", "cell": cell.key, "image": IMAGES[0]}
    if prediction.name != "photo%200.npz":
        belongs["image"] = IMAGES[1]
    of_photo = {"kind": "photo", "dataset": DIGEST[:12], "image": IMAGES[0]}
    return [
        (place / "spec.json", lambda: cells.read(place / "spec.json")),
        (rows, lambda: chunks.read_one(rows, chunks.COUNTS, cell.key).content),
        (measures, lambda: chunks.read_one(measures, chunks.MEASURES, cell.key).content),
        (text, lambda: sealed.read_tensors(text, {"kind": "text", "key": "key"})[0].content),
        (trunk, lambda: sealed.read_tensors(trunk, {"kind": "trunk", "key": "key"})[0].content),
        (projection, lambda: load_projection(str(projection))[0]),
        (prediction, lambda: sealed.read_arrays(prediction, belongs).content),
        (photo, lambda: sealed.read_arrays(photo, of_photo).content),
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return set(one) >= set(other) and all(_equal(one[key], other[key]) for key in other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and np.array_equal(one, other))
    return bool(one.equals(other)) if hasattr(one, "equals") else bool(one == other)
