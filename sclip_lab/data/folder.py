"""A folder of photos and a folder of masks, described by a yaml (conf/dataset/*.yaml)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.base import select, selection_words
from sclip_lab.data.class_ids import ClassIds, vocabulary_of
from sclip_lab.data.decode import read_mask
from sclip_lab.data.file_dataset import FileDataset
from sclip_lab.data.lists import places_below, read_list
from sclip_lab.data.paths import below
from sclip_lab.data.splits import filled, has_split, list_file
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
        split: the value of {split}, such as "val"; in a yaml without {split} a list file.
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
        self._faults, self._list_key = faults, "split_list"
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
        self.vocabulary = vocabulary_of(vocabulary, self.root)
        suffixes = [image_suffix] if isinstance(image_suffix, str) else list(image_suffix)
        if not suffixes:
            raise LabError(f"{self.title}: image_suffix is empty; it must name a suffix")
        self.image_suffixes = sorted(suffixes, key=len, reverse=True)  # the longest that fits
        self.mask_suffix = mask_suffix
        for key, pattern, parts in (
            ("image_name", image_name, ("{stem}",)),
            ("mask_name", mask_name, ("{stem}", "{name}", "{folder}", "{photo}")),
        ):
            if not any(part in pattern for part in parts):
                raise LabError(f"{self.title}: {key} is '{pattern}'; it must contain '{{stem}}'")
        self._before, _, self._behind = image_name.partition("{stem}")
        self.mask_name = mask_name
        self.ignore_index = ignore_index
        self.class_ids = ClassIds(
            self.title, self.vocabulary, self.root, ignore_index, label_map, reduce_zero_label,
            palette, unlabelled,
        )  # fmt: skip
        self.mask_resize = mask_resize
        self.recursive = recursive
        self.selection = selection_words(limit, sample, seed)
        self.expected = expected
        self._photos: dict[str, str] = {}  # stem -> file below images
        self._listed_masks: dict[str, str] = {}  # stem -> file below masks, where a list says it
        self._names = self._find_names(limit, sample, seed)

    def image_path(self, name: str) -> Path:
        """Where the photo of a sample lies."""
        return self.images / self._photo_file(name)

    def mask_path(self, name: str) -> Path:
        """Where the mask of a sample lies."""
        return self.masks / self._mask_file(name)

    def read_ids(self, name: str, content: bytes | None, photo_size: tuple[int, int]) -> np.ndarray:
        """A sample's mask; see `sclip_lab.data.file_dataset.FileDataset.read_ids`."""
        assert content is not None
        path = self.mask_path(name)
        if content[:16].lstrip(JSON_BEFORE).startswith(b"{"):
            from sclip_lab.data.annotations import read_annotation

            return read_annotation(content, self.class_ids, photo_size, path)
        return self.class_ids.from_content(content, path)

    def check_masks(self) -> None:
        """Refuse masks that hold 0 and 255 alone, unless label_map says that 255 is void.

        Only class 0 would be left of them, and its mIoU would mean nothing. Masks are read until
        one has another id, which is usually the first.

        Raises:
            LabError: it states the two ways to write what is meant.
        """
        void, ids = self.ignore_index, self.class_ids
        explained = ids.reduce_zero_label or void in ids.ids_of_raw or ids.palette
        if self.vocabulary.num_classes < 2 or explained:
            return
        present: set[int] = set()
        for name in self._names:
            try:
                content = self.mask_path(name).read_bytes()
                present.update(np.unique(read_mask(self.mask_path(name), content)).tolist())
            except (LabError, OSError):  # the evaluation will report this file
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

    def masks_without_photo(self) -> list[str]:
        """Files below ``masks`` that have the mask suffix and belong to no photo of any split."""
        return self._alone(
            _files(self.masks, self.recursive),
            self._group_by_stem(_files(self.images, self.recursive)),
        )

    def _alone(self, masks: Iterable[str], photos: Mapping[str, list[str]]) -> list[str]:
        paired = {self._mask_file(stem, files[0]) for stem, files in photos.items()}
        paired |= set(self._listed_masks.values())
        return sorted(
            mask
            for mask in masks
            if mask.endswith(self.mask_suffix)
            and mask not in paired
            and (self.recursive or "/" not in mask)
            and not (self.images == self.masks and self._stem(mask) in photos)
        )

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
        photos = self._group_by_stem(considered)
        if self.images == self.masks:
            drawn = {self._mask_file(stem, files[0]) for stem, files in photos.items()}
            photos = {stem: files for stem, files in photos.items() if not drawn.issuperset(files)}
        if self.split_list is None:
            names = sorted(photos)
            if not names:
                self._refuse_no_photo(considered)
            self._report_left_out(files, photos, masks)
            if alone := self._alone(masks, photos):
                masks_alone = f"{len(alone)} mask{'s' * (len(alone) > 1)} without a photo"
                self.unpaired = (*self.unpaired, masks_alone)
        else:
            names = self._listed_names(self.split_list, photos, masks)
        names = select(names, limit, sample, seed)
        for name in names:
            if len(photos.get(name, ())) > 1:
                self._fault(
                    f"{' and '.join(photos[name])} in {self.images} are both photo '{name}' of "
                    f"mask {self.mask_path(name)}; keep one of them"
                )
        self._photos = {name: photos[name][0] for name in names if name in photos}
        names = self._with(names, photos.__contains__, self.image_path, "photo")
        return self._with(
            names, lambda name: self._mask_file(name) in masks, self.mask_path, "mask"
        )

    def _fault(self, text: str) -> None:
        if self._faults is None:
            raise LabError(f"{self.title}: {text}")
        self._faults.append(text)

    def _photo_file(self, stem: str) -> str:
        """The photo of a stem, as a path below ``images``."""
        folder, slash, last = stem.rpartition("/")
        usual = f"{folder}{slash}{self._before}{last}{self._behind}{self.image_suffixes[-1]}"
        return self._photos.get(stem, usual)

    def _mask_file(self, stem: str, photo: str | None = None) -> str:
        """The mask of a stem, as a path below ``masks``."""
        if stem in self._listed_masks:
            return self._listed_masks[stem]
        if self.mask_name == "{stem}":
            return stem + self.mask_suffix
        folder, slash, last = stem.rpartition("/")
        pattern, in_folder = self.mask_name, ""
        if "/" not in pattern and "{stem}" in pattern:
            pattern, in_folder = pattern.replace("{stem}", last), folder + slash
        parts = {"stem": stem, "name": last, "folder": folder, "photo": photo or ""}
        if "{photo}" in pattern and photo is None:
            parts["photo"] = self._photo_file(stem)
        for part, value in parts.items():
            pattern = pattern.replace(f"{{{part}}}", value)
        return f"{in_folder}{pattern}{self.mask_suffix}"

    def _stem(self, file: str) -> str | None:
        """The stem of a photo's file below ``images``; None if it is no photo by its name."""
        folder, slash, last = file.rpartition("/")
        suffix = next((s for s in self.image_suffixes if last.endswith(s)), None)
        if suffix is None:
            return None
        bare = last.removesuffix(suffix)
        fits = bare.startswith(self._before) and bare.endswith(self._behind)
        stem = bare[len(self._before) : len(bare) - len(self._behind)] if fits else ""
        return f"{folder}{slash}{stem}" if stem else None

    def _group_by_stem(self, files: Iterable[str]) -> dict[str, list[str]]:
        """{stem: its photos}; a stem has several photos if their suffixes differ."""
        photos: dict[str, list[str]] = {}
        for file in files:
            if (stem := self._stem(file)) is not None:
                photos.setdefault(stem, []).append(file)
        return photos

    def _with(
        self, names: list[str], has: Callable[[str], bool], path: Callable[[str], Path], what: str
    ) -> list[str]:
        """The names that have a photo, or a mask. The other names are a fault."""
        absent = [name for name in names if not has(name)]
        if not absent:
            return names
        if self._faults is not None:
            self._faults += [f"sample '{name}' has no {what}: {path(name)}" for name in absent]
            missing = set(absent)
            return [name for name in names if name not in missing]
        listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        hint = ""
        if what == "photo":
            hint = f" (as the list {self.split_list} says; it holds one stem a line)"
        raise LabError(
            f"{self.title}: "
            f"{len(absent)} of {len(names)} samples have no {what}: {listed}; "
            f"'{absent[0]}' needs {path(absent[0])}{hint}"
        )

    def _refuse_no_photo(self, files: Sequence[str]) -> None:
        counts = Counter(Path(file).suffix or "no suffix" for file in files)
        present = ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(3))
        raise LabError(
            f"{self.title}: no photo {self._before}*{self._behind}{self.image_suffixes[-1]} in "
            f"{self.images} (found: {present or 'nothing'}); see dataset.image_suffix and "
            "dataset.recursive"
        )

    def _report_left_out(
        self, files: Sequence[str], photos: Mapping[str, list[str]], masks: set[str]
    ) -> None:
        """Refuse photos that have masks and are left out because of their suffix or folder.

        Other photos without a mask are only counted.
        """
        taken = {file for same_stem in photos.values() for file in same_stem}
        parts = {suffix.rpartition(".")[0] for suffix in self.image_suffixes}
        left_out, suffixes, alone = [], set(self.image_suffixes), 0
        for file in files:
            bare, ending = os.path.splitext(file)
            if file in taken or ending.lower() not in PHOTO_SUFFIXES:
                continue
            stems = [self._stem(bare.removesuffix(p) + self.image_suffixes[0]) for p in parts
                     if bare.endswith(p)]  # fmt: skip
            candidates = [self._mask_file(stem, file) for stem in stems if stem]
            in_masks = self.images == self.masks and file in masks
            if any(mask in masks and not (in_masks and mask == file) for mask in candidates):
                left_out.append(file)
                suffixes |= {p + ending for p in parts if bare.endswith(p)}
            elif not in_masks:
                alone += 1
        if alone:
            self.unpaired = (*self.unpaired, f"{alone} photos of other names without a mask")
        if not left_out:
            return
        remedy = []
        if suffixes != set(self.image_suffixes):
            remedy.append(f"image_suffix: [{', '.join(sorted(suffixes))}]")
        if any("/" in file for file in left_out) and not self.recursive:
            remedy.append("recursive: true")
        listed = ", ".join(sorted(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
        self._fault(
            f"{len(left_out)} photos in {self.images} have masks but would be left out beside the "
            f"{len(taken)} that are read: {listed}; set {' and '.join(remedy)} to read all, or "
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
                stem = file if file in photos else self._stem(file)
                if stem in photos:
                    return stem
            bare, ending = os.path.splitext(text)
            return bare if ending.lower() in PHOTO_SUFFIXES and bare in photos else None

        def find_mask(text: str, stem: str | None) -> str | None:
            files = places_below(text, [self.masks, self.root, path.parent], self.masks)
            # A bare number behind a photo is rather a label than another photo's mask.
            usual = self._mask_file(stem) if stem and text.isdecimal() else None
            bare = [file + self.mask_suffix for file in files]
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


def _files(folder: Path, recursive: bool = True) -> list[str]:
    """Files below a folder, as posix paths relative to it.

    Links that lead nowhere are included: a photo that cannot be read is an error, not one photo
    less.
    """
    files: list[str] = []
    waiting = [("", os.fspath(folder))]
    entered = {os.path.realpath(folder)}  # links may lead in circles
    while waiting:
        prefix, place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            raise LabError(f"folder {place}: {error.strerror}") from error
        for entry in entries:
            if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                files.append(prefix + entry.name)
            elif recursive and entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in entered:
                    entered.add(real)
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
    return files
