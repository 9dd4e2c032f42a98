"""A folder of photos and a folder of masks, described by one yaml (conf/dataset/*.yaml)."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.decode import LARGEST_LIST, read_image, read_mask, regular_file
from sclip_lab.data.digests import file_digests
from sclip_lab.data.paths import below
from sclip_lab.data.vocabulary import Vocabulary

RAW_IDS = 1 << 16  # what a 16-bit png can hold
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2")


class Folder(Dataset):
    """Photos and masks that share the stem of their file names.

    A photo ``<root>/<images>/<stem><image_suffix>`` goes with the mask
    ``<root>/<masks>/<mask_name of stem><mask_suffix>``; the stem is the sample's name. A mask
    without a photo is passed over here and reported by ``sclip-lab data verify``. A photo of
    another suffix, or in a folder below, that has a mask is an error: it is never left out.

    Args:
        name: what a table calls the data set.
        root: folder that the other paths start from.
        images: folder of the photos, below root.
        masks: folder of the masks, below root.
        vocabulary: class names in id order: a list that comes with the package, a path to a text
            file, or a Vocabulary.
        image_suffix: what follows the stem of a photo, ".jpg" or "_leftImg8bit.png"; a list where
            photos differ, [".jpg", ".JPG", ".png"].
        mask_suffix: what follows the stem of a mask.
        mask_name: the mask's name from the stem, e.g. "{stem}_instanceTrainIds".
        ignore_index: id of pixels that count nowhere; above every class id, at most 255.
        label_map: {id in the file: id}; ids that are not in it stay as they are.
        reduce_zero_label: after label_map, 0 becomes ignore_index and every other id drops by 1.
        split: text file below root, one stem a line, in evaluation order; None takes all photos,
            sorted by stem.
        recursive: also photos in folders below; their stem then contains the folder.
        limit: take only the first so many.
        expected: how many samples the whole data set has (several numbers where releases
            differ); only ``sclip-lab data verify`` looks at it.

    Raises:
        LabError: folders, photos or masks that are missing, a split that does not fit, an
            impossible setting. Pixels are looked at when a sample is read.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        images: str,
        masks: str,
        vocabulary: str | Vocabulary,
        image_suffix: str | Sequence[str] = ".jpg",
        mask_suffix: str = ".png",
        mask_name: str = "{stem}",
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        label_map: Mapping[int, int] | None = None,
        split: str | None = None,
        recursive: bool = False,
        limit: int | None = None,
        expected: int | Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root).expanduser()
        self.images = self.root / images
        self.masks = self.root / masks
        self.vocabulary = (
            vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.named(vocabulary)
        )
        suffixes = [image_suffix] if isinstance(image_suffix, str) else list(image_suffix)
        if not suffixes:
            raise LabError(f"data set '{name}': image_suffix is empty; it must name a suffix")
        self.image_suffixes = sorted(suffixes, key=len, reverse=True)  # the longest that fits
        self.mask_suffix = mask_suffix
        self.mask_name = mask_name
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.label_map = _ids(name, label_map or {})
        self.split = None if split is None else self.root / split
        self.recursive = recursive
        self.limit = limit
        self.expected = [expected] if isinstance(expected, int) else list(expected or ())
        if "{stem}" not in mask_name:
            raise LabError(
                f"data set '{name}': mask_name is '{mask_name}'; it must contain '{{stem}}'"
            )
        self._ids = self._id_table()
        self._photos: dict[str, str] = {}  # stem -> file below images
        self._names = self._find_names()

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def image_path(self, name: str) -> Path:
        """Where the photo of a sample lies."""
        return self.images / self._photos.get(name, f"{name}{self.image_suffixes[-1]}")

    def mask_path(self, name: str) -> Path:
        """Where the mask of a sample lies."""
        return self.masks / self._mask_file(name)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        image = read_image(self.image_path(name))
        mask = self._read_ids(self.mask_path(name))
        if image.shape[:2] != mask.shape:
            photo, ids = ("{1}x{0}".format(*shape) for shape in (image.shape, mask.shape))
            raise LabError(
                f"data set '{self.name}': photo {self.image_path(name)} is {photo}, "
                f"its mask {self.mask_path(name)} is {ids} (width x height); they must be equal"
            )
        return Sample(name, image, mask)

    @cached_property
    def key(self) -> str:
        """sha256 over photos, masks, their order, the way ids are read and the class count."""
        reading = {
            "classes": self.vocabulary.num_classes,
            "ignore_index": self.ignore_index,
            "label_map": sorted(self.label_map.items()),
            "reduce_zero_label": bool(self.reduce_zero_label),
        }
        self.refuse_ignored_object()
        paths = [find(name) for name in self._names for find in (self.image_path, self.mask_path)]
        files = file_digests(paths, title=f"hashing {self.name}")
        digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
        for index, name in enumerate(self._names):
            digest.update(f"\n{name}\t{files[2 * index]}\t{files[2 * index + 1]}".encode())
        return digest.hexdigest()

    def refuse_ignored_object(self) -> None:
        """Refuse masks that hold 0 and 255 alone, unless label_map says that 255 is void.

        Nothing but class 0 would be left, and any mIoU of it is meaningless. Reads masks until one
        has another id, so one as a rule.

        Raises:
            LabError: naming the two ways to write what is meant.
        """
        void = self.ignore_index
        if self.vocabulary.num_classes < 2 or self.reduce_zero_label or void in self.label_map:
            return
        present: set[int] = set()
        for name in self._names:
            try:
                present.update(np.unique(read_mask(self.mask_path(name))).tolist())
            except LabError:  # evaluation names this file, or skips it
                return
            if not present <= {0, void}:
                return
        if present == {0, void}:
            raise LabError(
                f"data set '{self.name}': the masks hold the ids 0 and {void} alone, and {void} is "
                f"ignored, so only class '{self.vocabulary.names[0]}' would be left; write "
                f"label_map: {{{void}: 1}} if {void} marks '{self.vocabulary.names[1]}', or "
                f"label_map: {{{void}: {void}}} if it is void"
            )

    def masks_without_photo(self) -> list[str]:
        """Files below ``masks`` with the mask suffix that belong to no photo, split or not."""
        photos = self._group_by_stem(_files(self.images, self.recursive))
        paired = {self._mask_file(stem) for stem in photos}
        return sorted(
            mask
            for mask in _files(self.masks, self.recursive)
            if mask.endswith(self.mask_suffix) and mask not in paired
        )

    def _find_names(self) -> list[str]:
        for key, folder in (("root", self.root), ("images", self.images), ("masks", self.masks)):
            if not folder.is_dir():
                raise LabError(
                    f"data set '{self.name}': no folder {folder} (config key dataset.{key}); "
                    "set SCLIP_LAB_DATA or paths.data to where your data sets are; `sclip-lab "
                    f"data list` and conf/dataset/{self.name}.yaml say how to get this one"
                )
        files, masks = _files(self.images), set(_files(self.masks))
        reachable = self.recursive or self.split is not None
        considered = files if reachable else [file for file in files if "/" not in file]
        photos = self._group_by_stem(considered)
        if self.split is None:
            names = sorted(photos)
            if not names:
                self._refuse_no_photo(considered)
            self._refuse_left_out(files, photos, masks)
        else:
            names = self._split_stems(self.split)
        if self.limit is not None:
            if self.limit < 1:
                raise LabError(f"data set '{self.name}': limit is {self.limit}; it must be >= 1")
            names = names[: self.limit]
        for name in names:
            if len(photos.get(name, ())) > 1:
                raise LabError(
                    f"data set '{self.name}': {' and '.join(photos[name])} in {self.images} are "
                    f"both photo '{name}' of mask {self.mask_path(name)}; keep one of them"
                )
        self._photos = {name: photos[name][0] for name in names if name in photos}
        self._refuse_absent(names, set(photos), self.image_path, "photo")
        paired = {name for name in names if self._mask_file(name) in masks}
        self._refuse_absent(names, paired, self.mask_path, "mask")
        return names

    def _mask_file(self, stem: str) -> str:
        """The mask of a stem, as a path below ``masks``."""
        return f"{self.mask_name.replace('{stem}', stem)}{self.mask_suffix}"

    def _group_by_stem(self, files: Sequence[str]) -> dict[str, list[str]]:
        """{stem: its photos}: more than one where suffixes differ."""
        photos: dict[str, list[str]] = {}
        for file in files:
            suffix = next((s for s in self.image_suffixes if file.endswith(s)), None)
            if suffix is not None:
                photos.setdefault(file.removesuffix(suffix), []).append(file)
        return photos

    def _refuse_absent(
        self, names: list[str], present: set[str], path: Callable[[str], Path], what: str
    ) -> None:
        absent = [name for name in names if name not in present]
        if absent:
            listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            raise LabError(
                f"data set '{self.name}': {len(absent)} of {len(names)} samples have no "
                f"{what}: {listed}; '{absent[0]}' needs {path(absent[0])}"
            )

    def _refuse_no_photo(self, files: Sequence[str]) -> None:
        counts = Counter(Path(file).suffix or "no suffix" for file in files)
        present = ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(3))
        raise LabError(
            f"data set '{self.name}': no photo *{self.image_suffixes[-1]} in {self.images} (found: "
            f"{present or 'nothing'}); see dataset.image_suffix and dataset.recursive"
        )

    def _refuse_left_out(
        self, files: Sequence[str], photos: Mapping[str, list[str]], masks: set[str]
    ) -> None:
        """Refuse to evaluate a part: photos of another suffix or in folders below, with masks."""
        taken = {file for same_stem in photos.values() for file in same_stem}
        before = {suffix.rpartition(".")[0] for suffix in self.image_suffixes}
        left_out, suffixes = [], set(self.image_suffixes)
        for file in files:
            bare, ending = os.path.splitext(file)
            if file in taken or ending.lower() not in PHOTO_SUFFIXES:
                continue
            for part in before:
                mask = self._mask_file(bare.removesuffix(part))
                own_mask = self.images == self.masks and mask == file
                if bare.endswith(part) and mask in masks and not own_mask:
                    left_out.append(file)
                    suffixes.add(part + ending)
        if not left_out:
            return
        nested = sum("/" in file for file in left_out)
        remedy = [] if suffixes == set(self.image_suffixes) else [
            f"image_suffix: [{', '.join(sorted(suffixes))}]"
        ]  # fmt: skip
        if nested and not self.recursive:
            remedy.append("recursive: true")
        listed = ", ".join(sorted(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
        raise LabError(
            f"data set '{self.name}': {len(left_out)} photos in {self.images} have masks but would "
            f"be left out beside the {len(taken)} that are read: {listed}; set "
            f"{' and '.join(remedy)} to read all, or remove them"
        )

    def _split_stems(self, split: Path) -> list[str]:
        try:
            what = f"data set '{self.name}': split list (config key dataset.split)"
            regular_file(split, what, LARGEST_LIST)
            lines = split.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(
                f"data set '{self.name}': split list {split} (config key dataset.split): {error}"
            ) from error
        stems = [line.strip() for line in lines if line.strip()]
        for stem in stems:
            below(self.images, stem, f"data set '{self.name}': split list {split}")
        if not stems:
            raise LabError(f"data set '{self.name}': split list {split} is empty")
        twice = [stem for stem, count in Counter(stems).items() if count > 1]
        if twice:
            raise LabError(
                f"data set '{self.name}': split list {split} names {len(twice)} samples more than "
                f"once, e.g. '{twice[0]}'"
            )
        return stems

    def _id_table(self) -> np.ndarray:
        """(RAW_IDS,) int16: class id or ignore_index of every id a file may hold, -1 for none."""
        classes = self.vocabulary.num_classes
        if not classes <= self.ignore_index <= 255:
            raise LabError(
                f"data set '{self.name}': ignore_index is {self.ignore_index}; with {classes} "
                f"classes it must be in {classes}..255 (masks are 8 bits)"
            )
        raw = np.arange(RAW_IDS)
        ids = raw.copy()
        for old, new in self.label_map.items():
            if not 0 <= old < RAW_IDS:
                raise LabError(
                    f"data set '{self.name}': label_map key {old} is not in 0..{RAW_IDS - 1}"
                )
            ids[old] = new
        if self.reduce_zero_label:
            ignored = (ids == 0) | (ids == self.ignore_index)
            beyond = ids > self.ignore_index
            ids = np.where(ignored, self.ignore_index, np.where(beyond, -1, ids - 1))
        allowed = ((ids >= 0) & (ids < classes)) | (ids == self.ignore_index)
        for old, new in self.label_map.items():
            if not allowed[old]:
                raise LabError(
                    f"data set '{self.name}': label_map sends {old} to {new}, outside the "
                    f"{classes} classes of vocabulary '{self.vocabulary.name}'"
                )
        return np.where(allowed, ids, -1).astype(np.int16)

    def _read_ids(self, path: Path) -> np.ndarray:
        """(height, width) uint8 class ids of a mask file; LabError for an id that is none."""
        raw = read_mask(path)
        outside = (raw < 0) | (raw >= RAW_IDS)
        ids = np.where(outside, -1, self._ids[np.where(outside, 0, raw)])
        if (ids < 0).any():
            values, counts = np.unique(raw[ids < 0], return_counts=True)
            classes = _ranges(np.flatnonzero((self._ids >= 0) & (self._ids != self.ignore_index)))
            ignored = _ranges(np.flatnonzero(self._ids == self.ignore_index))
            raise LabError(
                f"mask {path}: id {values[0]} on {counts[0]} pixels ({len(values)} such ids) is "
                f"outside the {self.vocabulary.num_classes} classes of vocabulary "
                f"'{self.vocabulary.name}'; allowed are {classes}, and {ignored} for ignore "
                "(see dataset.reduce_zero_label and dataset.label_map)"
            )
        return ids.astype(np.uint8)


def _ids(name: str, label_map: Mapping[Any, Any]) -> dict[int, int]:
    try:
        return {int(raw): int(new) for raw, new in label_map.items()}
    except (TypeError, ValueError) as error:
        raise LabError(f"data set '{name}': label_map holds what is no id: {error}") from None


def _files(folder: Path, recursive: bool = True) -> list[str]:
    """Files below a folder, as posix paths relative to it."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        relative = Path(place).relative_to(folder)
        found += [(relative / file).as_posix() for file in files]
        if not recursive:
            folders.clear()
    return found


def _ranges(ids: np.ndarray) -> str:
    """[0, 1, 2, 7] as "0..2, 7"."""
    parts = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{p[0]}..{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts if len(p))
