"""Data sets of files: hashed once for the key, and checked against it when they are read."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.decode import is_turned, read_image
from sclip_lab.data.digests import file_digests, read_hashed


class FileDataset(Dataset):
    """What data sets have in common whose photos are files.

    A subclass sets ``name``, ``vocabulary``, ``class_ids`` and ``_names``, says where photos and
    masks lie, and what their bytes mean.

    Attributes:
        class_ids: how masks become class ids.
        mask_resize: "nearest" for masks of another size than their photos; None refuses them.
    """

    class_ids: ClassIds
    mask_resize: str | None = None
    _names: list[str]

    @property
    def names(self) -> list[str]:
        return self._names

    @abstractmethod
    def image_path(self, name: str) -> Path:
        """Where the photo of a sample lies."""

    def mask_path(self, name: str) -> Path | None:
        """Where the mask of a sample lies; None if it is no file of its own."""
        return None

    @abstractmethod
    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        """A sample's mask.

        Args:
            name: of the sample.
            content: the bytes at `mask_path`; None if it has none.
            photo_size: height, width, for annotations that do not say theirs.

        Returns:
            (height, width) class ids of ``class_ids.dtype``.
        """

    def annotation_digest(self, name: str) -> str:
        """What stands for a mask in the key if it is no file of its own."""
        return ""

    def check_masks(self) -> None:
        """A look at all masks together before the first is counted; called once, for the key."""

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path, mask_path = self.image_path(name), self.mask_path(name)
        photo_digest, mask_digest = self._digests.get(name, (None, None))
        photo = read_hashed(path, photo_digest, "photo")
        content = None if mask_path is None else read_hashed(mask_path, mask_digest, "mask")
        image = read_image(path, photo)
        if is_turned(photo) and name not in self.turned:
            self.turned.append(name)
        mask = self.read_ids(name, content, (image.shape[0], image.shape[1]))
        if image.shape[:2] != mask.shape:
            mask = self._resized(mask, image, path, mask_path)
        return Sample(name, image, mask)

    @cached_property
    def key(self) -> str:
        """sha256 over photos, masks, their order, the way ids are read and the class count."""
        self.check_masks()
        reading = {**self.class_ids.reading, **self.reading}
        places = [(self.image_path(name), self.mask_path(name)) for name in self._names]
        paths = [path for pair in places for path in pair if path is not None]
        digests = iter(file_digests(paths, f"hashing {self.name}"))
        self._digests = {
            name: (next(digests), None if mask is None else next(digests))
            for name, (_, mask) in zip(self._names, places, strict=True)
        }
        digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
        for name, (photo, mask) in self._digests.items():
            digest.update(f"\n{name}\t{photo}\t{mask or self.annotation_digest(name)}".encode())
        return digest.hexdigest()

    @cached_property
    def turned(self) -> list[str]:
        """Photos read so far that their EXIF tags turn. Their masks must be upright, which only
        a look tells: a half turn keeps the size, and so does a turned square."""
        return []

    @property
    def reading(self) -> dict[str, Any]:
        """What changes a mask besides ``class_ids``."""
        return {} if self.mask_resize is None else {"mask_resize": self.mask_resize}

    @cached_property
    def _digests(self) -> dict[str, tuple[str | None, str | None]]:
        """Filled by `key`, so that what is read later must be what was hashed."""
        return {}

    def _resized(
        self, mask: np.ndarray, image: np.ndarray, path: Path, mask_path: Path | None
    ) -> np.ndarray:
        """The mask at the photo's size, if the yaml allows it."""
        (height, width), (rows, columns) = image.shape[:2], mask.shape
        if self.mask_resize is not None and _same_shape((height, width), (rows, columns)):
            return nearest(mask, (height, width))
        remedy = "they must be equal"
        if (rows, columns) == (width, height):
            remedy += "; the mask lies on its side: turn it as the photo's EXIF tag turns the photo"
        elif _same_shape((height, width), (rows, columns)):
            remedy += "; mask_resize: nearest takes the nearest pixel of the mask"
        raise LabError(
            f"data set '{self.name}': photo {path} is {width}x{height}, its mask "
            f"{mask_path or ''} is {columns}x{rows} (width x height); {remedy}"
        )


def nearest(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask at another size: each pixel takes the id at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes differ in scale alone, but for rounding to whole pixels."""
    (height, width), (rows, columns) = one, other
    return abs(height * columns - width * rows) <= max(height, width, rows, columns)
