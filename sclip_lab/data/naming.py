"""Replace {split} in the paths of a yaml by the name of a part of the data set, and find the mask
of a photo by {stem}, the text that the names of both files share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sclip_lab.core.errors import LabError, unknown

_PART = re.compile(r"\{(stem|name|folder|photo)\}")
SPLIT = "{split}"


def has_split(*templates: str | None) -> bool:
    """Whether any of the paths holds {split}."""
    return any(template is not None and SPLIT in template for template in templates)


def filled(root: Path, split: str | None, *templates: str | None) -> list[str]:
    """Replace {split} by a split's name in paths below ``root``; None becomes an empty path.

    Raises:
        LabError: no split although a path needs one, a split although no path does, or an unknown
            split (did you mean).
    """
    with_split = [template for template in templates if template and SPLIT in template]
    if split is None:
        splits = known_splits(root, with_split[0])
        raise LabError(f"dataset.split is missing; there are {', '.join(splits) or 'none'}")
    if not with_split:
        raise LabError(f"dataset.split is '{split}', but no path of the yaml holds '{SPLIT}'")
    if split in ("", ".", "..") or "/" in split or "\\" in split:
        raise LabError(f"dataset.split {split!r} is not the name of a split")
    for template in with_split:
        absent = not (root / template.replace(SPLIT, split)).exists()
        if absent and (splits := known_splits(root, template)):
            raise unknown("dataset.split", split, splits)
    return [(template or "").replace(SPLIT, split) for template in templates]


def list_file(root: Path, split: str) -> str:
    """Return ``split`` as the path of a list file below ``root``, for a yaml without {split}. A
    missing file whose name has no suffix raises a LabError."""
    if not (root / split).exists() and not Path(split).suffix:
        raise LabError(
            f"dataset.split is '{split}', but none of images, masks and split_list holds "
            f"'{SPLIT}', and there is no list {root / split}"
        )
    return split


def known_splits(root: Path, template: str) -> list[str]:
    """Return the sorted names for {split} with which ``template`` is a path below ``root``."""
    head, _, tail = template.partition(SPLIT)
    again = re.escape(tail).replace(re.escape(SPLIT), r"\1")
    pattern = re.compile(f"{re.escape(head)}([^/]+){again}")
    places = root.glob(template.replace(SPLIT, "*"))
    names = (pattern.fullmatch(place.relative_to(root).as_posix()) for place in places)
    return sorted({name[1] for name in names if name})


@dataclass(frozen=True)
class Naming:
    """How photos and masks are named after their stem; see `sclip_lab.data.folder.Folder`."""

    before: str  # text before the stem in a photo's name
    behind: str  # text between the stem and the suffix
    mask_name: str  # with {stem}, {name}, {folder} or {photo}
    mask_suffix: str
    image_suffixes: tuple[str, ...]  # of photos; the first is the usual one

    def stem(self, photo: str) -> str | None:
        """The stem of a photo's file, with its folder; None if the file is no photo by its name."""
        folder, slash, last = photo.rpartition("/")
        match = self._photo.fullmatch(last)
        return f"{folder}{slash}{match[1]}" if match else None

    def photo(self, stem: str) -> str:
        """The file of a stem's photo if it has the usual suffix."""
        folder, slash, last = stem.rpartition("/")
        return f"{folder}{slash}{self.before}{last}{self.behind}{self.image_suffixes[0]}"

    def mask(self, stem: str, photo: str) -> str:
        """The file of the mask that belongs to a stem and to the stem's photo file."""
        if self.mask_name == "{stem}":  # the usual one, without a search for the other parts
            return stem + self.mask_suffix
        folder, slash, last = stem.rpartition("/")
        # Masks named by {stem} alone lie in folders of the same names as the photos'.
        beside = "{stem}" in self.mask_name and "/" not in self.mask_name
        parts = {"stem": last if beside else stem, "name": last, "folder": folder, "photo": photo}
        name = _PART.sub(lambda part: parts[part[1]], self.mask_name)
        return f"{folder + slash if beside else ''}{name}{self.mask_suffix}"

    @cached_property
    def _photo(self) -> re.Pattern[str]:
        # The shortest stem is the one before the longest suffix that fits.
        suffixes = "|".join(map(re.escape, self.image_suffixes))
        before, behind = re.escape(self.before), re.escape(self.behind)
        return re.compile(f"{before}(.+?){behind}(?:{suffixes})", re.DOTALL)
