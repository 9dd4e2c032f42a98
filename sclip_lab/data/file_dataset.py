"""Data sets of files. The key is a hash of them, and files that are read must match it."""

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

    A subclass sets ``name``, ``vocabulary``, ``class_ids`` and ``_names``. Its methods say where
    photos and masks lie and what the bytes of a mask mean.

    Attributes:
        class_ids: how masks become class ids.
        mask_resize: "nearest" accepts masks of another size than their photos; None refuses them.
    """

    class_ids: ClassIds
    mask_resize: str | None = None
    _names: list[str]

    @property
    def names(self) -> list[str]:
        return self._names

    @property
    def title(self) -> str:
        """The data set's name in errors."""
        return f"data set '{self.name}'"

    @abstractmethod
    def image_path(self, name: str) -> Path:
        """Where the photo of a sample lies."""

    def mask_path(self, name: str) -> Path | None:
        """Where the mask of a sample lies; None if it has no file of its own."""
        return None

    @abstractmethod
    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        """(height, width) class ids of a sample's mask, of ``class_ids.dtype``.

        Args:
            name: of the sample.
            content: the bytes of the file at `mask_path`; None if there is no such file.
            photo_size: (height, width), for annotations that do not state a size.
        """

    def annotation_digest(self, name: str) -> str:
        """Digest of a mask that has no file of its own, for the key."""
        return ""

    def check_masks(self) -> None:
        """Check all masks together before any pixel is counted; `key` calls this once."""

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path, mask_path = self.image_path(name), self.mask_path(name)
        photo_digest, mask_digest = self._digests.get(name, (None, None))
        photo = read_hashed(path, photo_digest, "photo")
        content = None if mask_path is None else read_hashed(mask_path, mask_digest, "mask")
        image = read_image(path, photo)
        if is_turned(photo) and name not in self.turned:
            self.turned.append(name)
        size = image.shape[0], image.shape[1]
        mask = self.read_ids(name, content, size)
        where = f"{self.title}: photo {path}"
        return Sample(name, image, fitted(mask, size, self.mask_resize, where, mask_path))

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
        """Photos read so far that their EXIF tags turn. Only a look tells whether their masks are
        upright: a half turn keeps the size, and so does a turned square."""
        return []

    @property
    def reading(self) -> dict[str, Any]:
        """What changes a mask besides ``class_ids``."""
        return {} if self.mask_resize is None else {"mask_resize": self.mask_resize}

    @cached_property
    def _digests(self) -> dict[str, tuple[str | None, str | None]]:
        """Digests of photo and mask by name. `key` fills it, and later reads are checked."""
        return {}


def fitted(
    mask: np.ndarray, size: tuple[int, int], resize: str | None, photo: str, place: object = ""
) -> np.ndarray:
    """A (rows, columns) mask at its photo's (height, width).

    A mask of another scale is accepted if ``resize`` is "nearest". ``photo`` and ``place`` name
    photo and mask in the error.

    Raises:
        LabError: the mask has another size and is not resized, or another shape.
    """
    (height, width), (rows, columns) = size, mask.shape
    if (height, width) == (rows, columns):
        return mask
    # Sizes that differ in scale alone are equal but for rounding to whole pixels.
    same_shape = abs(height * columns - width * rows) <= max(height, width, rows, columns)
    if resize is not None and same_shape:
        return nearest(mask, size)
    remedy = "they must be equal"
    if (rows, columns) == (width, height):
        remedy += "; the mask lies on its side: turn it as the photo's EXIF tag turns the photo"
    elif same_shape:
        remedy += "; mask_resize: nearest takes the nearest pixel of the mask"
    raise LabError(
        f"{photo} is {width}x{height}, its mask {place or ''} is {columns}x{rows} "
        f"(width x height); {remedy}"
    )


def nearest(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask at another size: each pixel takes the id at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
