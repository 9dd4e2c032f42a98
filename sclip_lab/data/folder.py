"""A folder of photos and a folder of masks, described by a yaml (conf/dataset/*.yaml)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import select, selection_words
from sclip_lab.data.class_ids import ClassIds
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.lists import places_below, read_list
from sclip_lab.data.naming import Naming, filled, has_split, list_file
from sclip_lab.data.paths import below
from sclip_lab.data.vocabulary import Vocabulary

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2")
JSON_BEFORE = b"\xef\xbb\xbf \t\r\n"  # what may stand before a json's first brace


class Folder(FileDataset):
    """Photos and masks that share the stem of their file names.

    The photo ``<root>/<images>/<stem><image_suffix>`` belongs to the mask
    ``<root>/<masks>/<stem><mask_suffix>``; the stem is the sample's name. A photo that has a mask
    is never left out silently: another suffix, or a folder below, is an error. A mask without a
    photo is counted in ``unpaired`` and reported by ``sclip-lab data verify``.

    The bytes of a mask decide how it is read: as an image of ids, an image of colours (with
    ``palette``), an .npy array, or the json of Labelme or Supervisely (``mask_suffix: .json``).

    Args:
        name: what a table calls the data set.
        root: folder that the other paths start from.
        images: folder of the photos, below root; may hold {split}.
        masks: folder of the masks, below root; may hold {split}.
        vocabulary: class names in id order: a list that comes with the package, a file (.txt, .csv,
            .json; relative to root or to where the command runs), or the names themselves.
        image_suffix: what follows the stem of a photo, ".jpg" or "_leftImg8bit.png"; a list if
            photos differ, [".jpg", ".JPG", ".png"].
        mask_suffix: what follows the stem of a mask.
        image_name: a photo's name around its stem, such as "img_{stem}".
        mask_name: a mask's name around the stem, such as "mask_{stem}". For other layouts {name} is
            the stem without its folder, {folder} that folder, {photo} the photo's whole file name.
        ignore_index: id of pixels that are not counted; above every class id, at most 65535.
        label_map: {id in the file: id, class name or "ignore"}; annotation files also take {name:
            class}. Ids that are not listed stay as they are.
        reduce_zero_label: after label_map, 0 becomes ignore_index and every other id drops by 1.
        palette: colours of masks that are stored as colours, see `sclip_lab.data.palette`.
        unlabelled: class of pixels outside of all shapes of an annotation, or "ignore"; by default
            the class named background.
        mask_resize: "nearest" if masks are larger or smaller than their photos.
        split: the value of {split}, such as "val"; in a yaml without {split} a list below root.
        split_list: file below root that lists the photos of a split in evaluation order: stems,
            file names, paths or pairs, one a line; also csv and json. None takes all photos,
            sorted.
        recursive: also take photos in folders below; their stem then contains the folder.
        limit, sample, seed: see `sclip_lab.data.base.select`.
        expected: how many samples the whole data set has (a list if releases differ); only
            ``sclip-lab data verify`` looks at it.
        faults: a list that collects what is wrong with photos and masks; None raises the first
            error.

    Raises:
        LabError: folders, photos or masks that are missing, a list that does not fit, an impossible
            setting. Pixels are checked when a sample is read.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        images: str,
        masks: str,
        vocabulary: str | Sequence[str] | Vocabulary,
        image_suffix: str | Sequence[str] = ".jpg",
        mask_suffix: str = ".png",
        image_name: str = "{stem}",
        mask_name: str = "{stem}",
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        label_map: Mapping[Any, Any] | None = None,
        palette: str | Mapping[Any, Any] | Sequence[Any] | None = None,
        unlabelled: str | int | None = None,
        mask_resize: Literal["nearest"] | None = None,
        split: str | None = None,
        split_list: str | None = None,
        recursive: bool = False,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        expected: int | Sequence[int] | None = None,
        faults: list[str] | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root).expanduser()
        self.faults, self._list_key = faults, "split_list"
        if split is not None and split_list is None and not has_split(images, masks):
            split_list, self._list_key = list_file(self.root, split), "split"
            split = Path(split).stem
        elif split is not None or has_split(images, masks, split_list):
            images, masks, split_list = filled(self.root, split, images, masks, split_list)
        self.split = split or ""
        self.split_list = self.root / split_list if split_list else None
        self.images, self.masks = (
            Path(os.path.normpath(self.root / folder)) for folder in (images, masks)
        )
        self.vocabulary = Vocabulary.typed(vocabulary, "vocabulary", self.root)
        suffixes = [image_suffix] if isinstance(image_suffix, str) else list(image_suffix)
        if not suffixes:
            raise LabError(f"{self.title}: image_suffix is empty; it must name a suffix")
        if bare := [each for each in suffixes if f".{each.lower()}" in PHOTO_SUFFIXES]:
            raise LabError(f"{self.title}: image_suffix is '{bare[0]}'; write '.{bare[0]}'")
        for key, pattern, parts in (
            ("image_name", image_name, ("{stem}",)),
            ("mask_name", mask_name, ("{stem}", "{name}", "{folder}", "{photo}")),
        ):
            if not any(part in pattern for part in parts):
                raise LabError(f"{self.title}: {key} is '{pattern}'; it must contain '{{stem}}'")
        before, _, behind = image_name.partition("{stem}")
        self.naming = Naming(
            before, behind, mask_name, mask_suffix, tuple(sorted(suffixes, key=len))
        )
        self.ignore_index = ignore_index
        self.class_ids = ClassIds(
            self.title, self.vocabulary, self.root, ignore_index, label_map, reduce_zero_label,
            palette, unlabelled,
        )  # fmt: skip
        self.mask_resize = mask_resize
        self.recursive = recursive
        self.expected = expected
        self._photos: dict[str, str] = {}  # stem -> file below images
        self._listed_masks: dict[str, str] = {}  # stem -> file below masks, where a list says it
        self._names = self._find_names(limit, sample, seed)

    def image_path(self, name: str) -> Path:
        return self.images / self._photo_file(name)

    def mask_path(self, name: str) -> Path:
        return self.masks / self._mask_file(name)

    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        assert content is not None
        path = self.mask_path(name)
        if content[:16].lstrip(JSON_BEFORE).startswith(b"{"):
            from sclip_lab.data.annotations import read_annotation

            return read_annotation(content, self.class_ids, photo_size, path)
        return self.class_ids.from_content(content, path)

    def _find_names(self, limit: int | None, sample: int | None, seed: int) -> list[str]:
        for key, folder in (("root", self.root), ("images", self.images), ("masks", self.masks)):
            if not folder.is_dir():
                raise LabError(
                    f"{self.title}: no folder {folder} (config key dataset.{key}); "
                    "set SCLIP_LAB_DATA or paths.data to where your data sets are; `sclip-lab "
                    f"data list` and conf/dataset/{self.name}.yaml say how to get this one"
                )
        files, masks = _files(self.images), set(_files(self.masks))
        reachable = self.recursive or self.split_list is not None
        considered = files if reachable else [file for file in files if "/" not in file]
        photos: dict[str, list[str]] = {}  # by stem; several if suffixes differ
        for file in considered:
            if (stem := self.naming.stem(file)) is not None:
                photos.setdefault(stem, []).append(file)
        if self.images == self.masks:  # where names alone do not tell masks from photos
            paired = {self._mask_file(stem, files[0]) for stem, files in photos.items()}
            photos = {stem: files for stem, files in photos.items() if not paired.issuperset(files)}
        if self.split_list is None:
            names = sorted(photos)
            if not names:
                counts = Counter(Path(file).suffix or "no suffix" for file in considered)
                present = ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(3))
                raise LabError(
                    f"{self.title}: no photo {self.naming.photo('*')} in {self.images} (found: "
                    f"{present or 'nothing'}); see dataset.image_suffix and dataset.recursive"
                )
            self._report_left_out(files, photos, masks)
        else:
            names = self._listed_names(self.split_list, photos, masks)
        self.masks_without_photo = self._alone(masks, photos)
        if (count := len(self.masks_without_photo)) and self.split_list is None:
            self.unpaired = (*self.unpaired, f"{count} mask{'s' * (count > 1)} without a photo")
        self.selection = selection_words(limit, sample, seed, len(names))
        names = select(names, limit, sample, seed)
        for name in names:
            if len(photos.get(name, ())) > 1:
                self.fault(
                    f"{' and '.join(photos[name])} in {self.images} are both photo '{name}' of "
                    f"mask {self.mask_path(name)}; keep one of them"
                )
        self._photos = {name: photos[name][0] for name in names if name in photos}
        listing = f" (as the list {self.split_list} says; it holds one stem a line)"
        names = self.present(names, photos.__contains__, self.image_path, "photo", listing)
        return self.present(names, lambda n: self._mask_file(n) in masks, self.mask_path, "mask")

    def _photo_file(self, stem: str) -> str:
        """The photo of a stem, as a path below ``images``."""
        return self._photos.get(stem) or self.naming.photo(stem)

    def _mask_file(self, stem: str, photo: str | None = None) -> str:
        """The mask of a stem, as a path below ``masks``."""
        listed = self._listed_masks.get(stem)
        return listed or self.naming.mask(stem, photo or self._photo_file(stem))

    def _alone(self, masks: Iterable[str], photos: Mapping[str, list[str]]) -> list[str]:
        """Files of the mask folder that have the mask suffix and belong to no photo."""
        paired = {self._mask_file(stem, files[0]) for stem, files in photos.items()}
        paired |= set(self._listed_masks.values())
        return sorted(
            mask
            for mask in masks
            if mask.endswith(self.naming.mask_suffix)
            and mask not in paired
            and (self.recursive or "/" not in mask)
            and not (self.images == self.masks and self.naming.stem(mask) in photos)
        )

    def _report_left_out(
        self, files: Sequence[str], photos: Mapping[str, list[str]], masks: set[str]
    ) -> None:
        """Refuse photos that have masks and are left out because of their suffix or folder. Add the
        number of left-out photos without a mask to ``unpaired``."""
        included = {file for same_stem in photos.values() for file in same_stem}
        usual = set(self.naming.image_suffixes)
        words = {suffix.rpartition(".")[0] for suffix in usual}  # such as _leftImg8bit
        left_out, suffixes, alone = [], usual.copy(), 0
        for file in files:
            ending = os.path.splitext(file)[1]
            if file in included or ending.lower() not in PHOTO_SUFFIXES:
                continue
            fitting = [word + ending for word in words if file.endswith(word + ending)]
            namings = [replace(self.naming, image_suffixes=(suffix,)) for suffix in fitting]
            stems = [stem for naming in namings if (stem := naming.stem(file))]
            candidates = {self._mask_file(stem, file) for stem in stems}
            itself = file if self.images == self.masks else None
            if (candidates - {itself}) & masks:
                left_out.append(file)
                suffixes.update(fitting)
            elif itself is None:
                alone += 1
        if alone:
            self.unpaired = (*self.unpaired, f"{alone} photos of other names without a mask")
        if not left_out:
            return
        remedy = []
        if suffixes != usual:
            remedy.append(f"image_suffix: [{', '.join(sorted(suffixes))}]")
        if any("/" in file for file in left_out) and not self.recursive:
            remedy.append("recursive: true")
        listed = ", ".join(sorted(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
        ways = " and ".join(remedy) or "another image_suffix"
        self.fault(
            f"{len(left_out)} photos in {self.images} have masks but would be left out beside the "
            f"{len(included)} that are read: {listed}; set {ways} to read all, or "
            "remove them"
        )

    def _listed_names(
        self, path: Path, photos: Mapping[str, list[str]], masks: set[str]
    ) -> list[str]:
        title = f"{self.title}: split list (config key dataset.{self._list_key})"
        places = [self.images, self.root, path.parent]

        def find_photo(text: str) -> str | None:
            if text in photos:
                return text
            for file in places_below(text, places, self.images):
                stem = file if file in photos else self.naming.stem(file)
                if stem in photos:
                    return stem
            bare, ending = os.path.splitext(text)
            return bare if ending.lower() in PHOTO_SUFFIXES and bare in photos else None

        def find_mask(text: str, stem: str | None) -> str | None:
            files = places_below(text, [self.masks, self.root, path.parent], self.masks)
            # A bare number behind a photo is rather a label than another photo's mask.
            usual = self._mask_file(stem) if stem and text.isdecimal() else None
            bare = [file + self.naming.mask_suffix for file in files]
            candidates = [*files, *(file for file in bare if usual in (None, file))]
            return next((file for file in candidates if file in masks), None)

        samples = read_list(path, title, find_photo, find_mask)
        for stem, mask in samples:
            if stem not in photos:
                below(self.images, stem, f"{self.title}: split list {path}")
            if mask is not None:
                self._listed_masks[stem] = mask
        names = [stem for stem, _ in samples]
        repeated = [stem for stem, count in Counter(names).items() if count > 1]
        if repeated:
            raise LabError(
                f"{self.title}: split list {path} names {len(repeated)} samples more than once, "
                f"e.g. '{repeated[0]}'"
            )
        return names


def _files(folder: Path) -> list[str]:
    """Files below a folder, as posix paths relative to it.

    Links that lead nowhere are included: a photo that cannot be read is an error, not one photo
    less.
    """

    def refuse(error: OSError) -> None:
        raise LabError(f"folder {error.filename}: {error.strerror}") from error

    files: list[str] = []
    entered = set()  # links may lead in circles
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        prefix = Path(place).relative_to(folder).as_posix()
        files += names if prefix == "." else [f"{prefix}/{name}" for name in names]
    return files
