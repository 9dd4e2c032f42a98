"""Which mask belongs to which photo, by the names of both files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_PART = re.compile(r"\{(stem|name|folder|photo)\}")


@dataclass(frozen=True)
class Naming:
    """How photos and masks are named after their stem; see `sclip_lab.data.folder.Folder`."""

    before: str  # text around the stem in a photo's name
    behind: str
    mask_name: str  # with {stem}, {name}, {folder} or {photo}
    mask_suffix: str
    image_suffixes: tuple[str, ...]  # of photos; the first is the usual one

    def stem(self, photo: str) -> str | None:
        """The stem of a photo's file, with its folder; None if the file is no photo by its name."""
        folder, slash, last = photo.rpartition("/")
        match = self._photo.fullmatch(last)
        return f"{folder}{slash}{match[1]}" if match else None

    def photo(self, stem: str) -> str:
        """The usual file of a stem's photo."""
        folder, slash, last = stem.rpartition("/")
        return f"{folder}{slash}{self.before}{last}{self.behind}{self.image_suffixes[0]}"

    def mask(self, stem: str, photo: str) -> str:
        """The file of the mask of a stem and its photo."""
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
