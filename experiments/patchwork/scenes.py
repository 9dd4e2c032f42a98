"""What training patchwork_vit is made of: windows, captions, the loss; never a mask as a target.

A training pair is a window of a train scene and a caption: the names, in random order and
separated by commas, of up to ``MOST_NAMES`` of the classes that cover at least ``LEAST_COVER`` of
the window, or of just one of them (captions of photos rarely name everything). Every caption of a
batch that is true of a window counts as its positive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.files import write_text
from sclip_lab.data.patchwork import CLASSES, SPLITS, VERSION, Patchwork, scene
from sclip_lab.network import backbone

WINDOW, HEIGHT, WIDTH = 96, 128, 160
PART = 48  # side of the parts of windows that training begins with
LEAST_COVER, MOST_NAMES = 0.04, 4
Pool = tuple[np.ndarray, np.ndarray]


def _block(bounds: tuple[int, int], easy: bool) -> tuple[np.ndarray, np.ndarray]:
    numbers = ([VERSION, SPLITS["train"], index] for index in range(*bounds))
    rngs = (np.random.Generator(np.random.PCG64(seed)) for seed in numbers)
    images, masks = zip(*(scene(rng, HEIGHT, WIDTH, easy) for rng in rngs), strict=True)
    return np.stack(images), np.stack(masks)


def scene_pool(folder: Path, scenes: int, easy: bool = False) -> Pool:
    """The first train scenes, made once and kept in ``folder`` as memory maps.

    Args:
        folder: of this pool alone.
        scenes: how many.
        easy: see `sclip_lab.data.patchwork.scene`.

    Returns:
        (scenes, 128, 160, 3) uint8 images and (scenes, 128, 160) uint8 masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings_file, image_file, mask_file = (
        folder / n for n in ("pool.json", "images.npy", "masks.npy")
    )
    first = Patchwork("train", 8, HEIGHT, WIDTH).key
    settings = {"scenes": scenes, "easy": easy, "first": first}
    if not settings_file.is_file() or json.loads(settings_file.read_text()) != settings:
        shape = (scenes, HEIGHT, WIDTH)
        images = np.lib.format.open_memmap(image_file, "w+", np.uint8, (*shape, 3))
        masks = np.lib.format.open_memmap(mask_file, "w+", np.uint8, shape)
        bounds = [(low, min(low + 250, scenes)) for low in range(0, scenes, 250)]
        with ProcessPoolExecutor() as executor:
            blocks = executor.map(partial(_block, easy=easy), bounds)
            for (low, high), block in zip(bounds, blocks, strict=True):
                images[low:high], masks[low:high] = block
        images.flush()
        masks.flush()
        write_text(settings_file, json.dumps(settings))
    return _mapped(image_file), _mapped(mask_file)


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def draw_windows(
    pool: Pool, batch: int, rng: np.random.Generator, side: int = WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """Random windows, turned, mirrored, with colour channels permuted and inverted.

    Args:
        pool: images and masks, as `scene_pool` gives them.
        batch: how many windows.
        rng: what is drawn from.
        side: of a window, pixels.

    Returns:
        (batch, side, side, 3) uint8, and (batch, classes) booleans: what is in each.
    """
    photos: np.ndarray = np.empty((batch, side, side, 3), np.uint8)
    present = np.empty((batch, len(CLASSES)), bool)
    images, masks = pool
    for row in range(batch):
        index = rng.integers(len(images))
        top, left = rng.integers(HEIGHT - side + 1), rng.integers(WIDTH - side + 1)
        area = slice(top, top + side), slice(left, left + side)
        image: np.ndarray = np.rot90(images[index][area], int(rng.integers(4)))[
            :, :: rng.choice((-1, 1))
        ]
        image = image[..., rng.permutation(3)]
        photos[row] = image ^ (255 * rng.integers(0, 2, 3)).astype(np.uint8)
        counts = np.bincount(masks[index][area].ravel(), minlength=len(CLASSES))
        present[row] = counts / side**2 >= LEAST_COVER
    return photos, present


def to_tensor(images: np.ndarray) -> Tensor:
    """(batch, height, width, 3) uint8 to CLIP's normalised (batch, 3, height, width) float."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (backbone.MEAN, backbone.STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() - mean) / std


class Captions:
    """Writes captions as token ids.

    Args:
        encode: text to token ids, without the marks of beginning and end.
        context_length: of the text tower.
        vocab_size: of the tokenizer; its last two ids mark beginning and end.
    """

    def __init__(
        self, encode: Callable[[str], Sequence[int]], context_length: int, vocab_size: int
    ) -> None:
        self._words: Mapping[str, Sequence[int]] = {w: encode(w) for w in (*CLASSES, ",")}
        self._length, self._begin, self._end = context_length, vocab_size - 2, vocab_size - 1

    @property
    def token_ids(self) -> list[int]:
        """Every id that occurs in a caption, sorted; 0 is the padding."""
        words = (i for ids in self._words.values() for i in ids)
        return sorted({0, self._begin, self._end, *words})

    def encode(self, names: Sequence[str]) -> Tensor:
        """(context_length,) ids of ``", ".join(names)``."""
        ids = [i for name in names for i in (*self._words[","], *self._words[name])][1:]
        row = torch.zeros(self._length, dtype=torch.long)
        row[: len(ids) + 2] = torch.tensor([self._begin, *ids, self._end])
        return row

    @cached_property
    def names(self) -> Tensor:
        """(classes, context_length) ids of the plain class names."""
        return torch.stack([self.encode([name]) for name in CLASSES])

    def name_features(self, model: Any) -> Tensor:
        """(classes, embed_dim) unit vectors of the plain class names, without gradient."""
        with torch.no_grad():
            return model.encode_text(self.names, True)

    def draw(
        self, present: np.ndarray, short: float, rng: np.random.Generator
    ) -> tuple[Tensor, np.ndarray]:
        """One caption for each window.

        Args:
            present: (batch, classes) booleans.
            short: share of captions that name a single class.

        Returns:
            (batch, context_length) ids, and (batch, classes) booleans: what each names.
        """
        rows, in_caption = [], np.zeros_like(present)
        for row, brief in enumerate(rng.random(len(present)) < short):
            order = rng.permutation(np.flatnonzero(present[row]))
            order = order[: 1 if brief else MOST_NAMES]
            in_caption[row, order] = True
            rows.append(self.encode([CLASSES[index] for index in order]))
        return torch.stack(rows), in_caption


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, present: np.ndarray, named: np.ndarray
) -> Tensor:
    """CLIP's symmetric cross-entropy with every true caption as a positive.

    Args:
        image: (batch, embed_dim) unit vectors.
        text: (batch, embed_dim) unit vectors.
        scale: factor on the cosines.
        present: (batch, classes) booleans: what is in each window.
        named: (batch, classes) booleans: what each caption names.
    """
    true = torch.from_numpy((present[:, None] >= named[None]).all(axis=-1)).float()
    logits = scale * image @ text.T
    rows = F.cross_entropy(logits, true / true.sum(dim=1, keepdim=True))
    columns = F.cross_entropy(logits.T, (true / true.sum(dim=0)).T)
    return (rows + columns) / 2


def top1(image: Tensor, names: Tensor, present: np.ndarray) -> float:
    """Share of windows whose nearest class name is of something in them.

    Args:
        image: (batch, embed_dim) unit vectors.
        names: (classes, embed_dim) unit vectors.
        present: (batch, classes) booleans.
    """
    nearest = (image @ names.T).argmax(dim=1).numpy()
    return float(present[np.arange(len(present)), nearest].mean())
