"""Data sets whose photos are files. The key hashes the files; later reads must match the hashes."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.decode import is_turned, read_image, read_mask
from sclip_lab.data.digests import file_digests, read_hashed


class FileDataset(Dataset):
    """The base class of data sets whose photos are files.

    A subclass sets ``name``, ``vocabulary``, ``class_ids`` and ``_names``. Its methods say where
    photos and masks lie and what the bytes of a mask mean.

    Attributes:
        class_ids: how masks become class ids.
        mask_resize: "nearest" accepts masks of another size than their photos; None refuses them.
        faults: collects what is wrong with single samples; None raises the first error.
        bounded: whether a file that is larger than any photo is an error.
    """

    class_ids: ClassIds
    bounded = True
    mask_resize: str | None = None
    faults: list[str] | None = None
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

    def files(self, name: str) -> list[Path]:
        """The files that a sample is read from, for the key."""
        mask = self.mask_path(name)
        return [self.image_path(name), *([] if mask is None else [mask])]

    @abstractmethod
    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        """(height, width) class ids of a sample's mask, of ``class_ids.dtype``.

        ``content`` is from `mask_content`; annotations that state no size need ``photo_size``.
        """

    def fault(self, text: str) -> None:
        """Raise or collect what is wrong with a sample."""
        if self.faults is None:
            raise LabError(f"{self.title}: {text}")
        self.faults.append(text)

    def present(
        self,
        names: list[str],
        has: Callable[[str], bool],
        path: Callable[[str], Path],
        what: str,
        listing: str = "",
    ) -> list[str]:
        """Return the names for which ``has`` is true, and call `fault` for the others.

        ``what`` is "photo" or "mask", ``path`` says where the file of a name must lie, and
        ``listing`` is text for the error on where the names come from.
        """
        absent = [name for name in names if not has(name)]
        if absent and self.faults is None:
            self.fault(
                f"{len(absent)} of {len(names)} samples have no {what}: {', '.join(absent[:5])}"
                f"{', ...' * (len(absent) > 5)}; '{absent[0]}' needs {path(absent[0])}{listing}"
            )
        for name in absent:
            self.fault(f"sample '{name}' has no {what}: {path(name)}")
        missing = set(absent)
        return [name for name in names if name not in missing]

    def annotation_digest(self, name: str) -> str:
        """Return what identifies a sample's annotation besides files; for a mask without a file,
        its digest."""
        return ""

    def photo_content(self, name: str) -> bytes:
        """The bytes of a photo's file, which must be those that `key` hashed."""
        path = self.image_path(name)
        return read_hashed(path, self._digests.get(path), "photo")

    def mask_content(self, name: str) -> bytes | None:
        """The bytes of a mask's file, which must be those that `key` hashed; None: no file."""
        path = self.mask_path(name)
        return None if path is None else read_hashed(path, self._digests.get(path), "mask")

    def check_masks(self) -> None:
        """Refuse masks that hold 0 and ``ignore_index`` alone, unless the yaml explains these ids
        by label_map, reduce_zero_label or palette.

        Only class 0 would be counted, and its mIoU would mean nothing. Masks are read until one
        has another id, which is usually the first mask. `key` calls this once.
        """
        void, ids = self.ignore_index, self.class_ids
        explained = ids.reduce_zero_label or void in ids.ids_of_raw or ids.palette or ids.is_grey
        if self.vocabulary.num_classes < 2 or explained:
            return
        present: set[int] = set()
        for name in self._names:
            try:
                content = self.mask_content(name)
                if content is None:
                    return
                present.update(np.unique(read_mask(name, content)).tolist())
            except LabError:  # the evaluation will report this file
                return
            if not present <= {0, void}:
                return
        if present == {0, void}:
            raise LabError(
                f"{self.title}: the masks hold the ids 0 and {void} alone, and {void} is "
                f"ignored, so only class '{self.vocabulary.names[0]}' would be left; write "
                f"label_map: {{{void}: 1}} if {void} marks '{self.vocabulary.names[1]}', or "
                f"label_map: {{{void}: {void}}} if it is void"
            )

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path, mask_path = self.image_path(name), self.mask_path(name)
        photo, content = self.photo_content(name), self.mask_content(name)
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
        files = {name: self.files(name) for name in self._names}
        paths = list(dict.fromkeys(path for each in files.values() for path in each))
        digests = file_digests(paths, f"hashing {self.name}", self.bounded)
        self._digests = dict(zip(paths, digests, strict=True))
        lines = [json.dumps({**self.class_ids.reading, **self.reading}, sort_keys=True)]
        for name, places in files.items():
            parts = name, *(self._digests[path] for path in places), self.annotation_digest(name)
            lines.append("\t".join(filter(None, parts)))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @cached_property
    def turned(self) -> list[str]:
        """Names of the photos read so far whose EXIF tag turns them. Only a look at them tells
        whether their masks are upright: a half turn keeps the size, and so does a turned square."""
        return []

    @property
    def reading(self) -> dict[str, Any]:
        """Settings besides ``class_ids`` that change masks; the key covers them."""
        return {} if self.mask_resize is None else {"mask_resize": self.mask_resize}

    @cached_property
    def _digests(self) -> dict[Path, str]:
        """Digests of photos and masks. `key` fills it, and later reads are compared with it."""
        return {}


def fitted(
    mask: np.ndarray, size: tuple[int, int], resize: str | None, photo: str, place: object = ""
) -> np.ndarray:
    """A (rows, columns) mask at its photo's (height, width).

    Raises:
        LabError: the mask has another scale, and ``resize`` is not "nearest"; or the mask has other
            proportions. ``photo`` and ``place`` name both files in the error.
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
        f"{photo} is {width}x{height}, its mask {f'{place} ' * bool(place)}is {columns}x{rows} "
        f"(width x height); {remedy}"
    )


def nearest(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask at another size: each pixel takes the id at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
