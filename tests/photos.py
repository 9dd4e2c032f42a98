"""A small folder of photos and masks, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary

CLASSES = Vocabulary("five", (("sky",), ("grass", "lawn"), ("dog", "puppy"), ("cat",), ("wall",)))
SIZES = ((70, 100), (64, 64), (90, 66))  # height, width


def write(root: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """Photos <root>/images/<i>.jpg and masks <root>/masks/<i>.png, one per size."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (height, width) in enumerate(sizes):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        photo.save(root / "images" / f"{number}.jpg", quality=95)
        mask = np.kron(rng.integers(0, 5, (4, 4)), np.ones((height // 4 + 1, width // 4 + 1)))
        mask = mask[:height, :width].astype(np.uint8)
        mask[:3] = 255
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def folder(root: Path, vocabulary: Vocabulary = CLASSES) -> Folder:
    return Folder("five", root, "images", "masks", vocabulary)
