"""Convert what a mask holds (numbers, colours, class names) to class ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.decode import read_mask
from sclip_lab.data.palette import ids_of_colours, read_palette
from sclip_lab.data.vocabulary import Vocabulary, readable

TABLE = 1 << 16  # raw ids 0 .. TABLE - 1 have a table; label_map also takes others, of 32-bit masks
LARGEST_ID = (1 << 16) - 1
IGNORE = "ignore"  # in a yaml: the class of pixels that are not counted
BACKGROUND = "background"
GREY = "grey"


class ClassIds:
    """How the masks of one data set are read.

    Args:
        title: begins the errors, such as "data set 'mine'".
        vocabulary: class names in id order.
        root: folder of the palette's file.
        ignore_index, label_map, reduce_zero_label, palette, unlabelled: see
            `sclip_lab.data.folder.Folder`.

    Attributes:
        dtype: of a mask of ids: uint8, or uint16 where an id is above 255.
        is_grey: whether masks have three equal channels that hold ids (``palette: grey``).

    Raises:
        LabError: ids or names that do not fit the vocabulary.
    """

    def __init__(
        self,
        title: str,
        vocabulary: Vocabulary,
        root: Path,
        ignore_index: int = 255,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool = False,
        palette: Any = None,
        unlabelled: str | int | None = None,
    ) -> None:
        self.title = title
        self.vocabulary = vocabulary
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        classes = vocabulary.num_classes
        if not classes <= ignore_index <= LARGEST_ID:
            bound = f"must be in {classes}..{LARGEST_ID}"
            if ignore_index < classes and ignore_index >= 0:
                bound = f"{bound}, for {ignore_index} is one of the {classes} classes"
            raise LabError(
                f"{title}: ignore_index is {ignore_index}; {bound} (65535 suits masks of 16 bits)"
            )
        self.dtype = np.uint8 if ignore_index <= 255 else np.uint16
        self._places = _places(vocabulary)
        self.ids_of_raw: dict[int, int] = {}
        self.ids_of_names: dict[str, int] = {}
        for label, target in (label_map or {}).items():
            self._add(label, target)
        self._table = self._raw_table()
        self.is_grey = palette == GREY
        in_colours = palette is not None and not self.is_grey
        self.palette = read_palette(palette, root, title, self.class_id) if in_colours else {}
        if self.palette and (reduce_zero_label or self.ids_of_raw):
            raise LabError(
                f"{title}: palette says the class of each colour, so label_map of ids and "
                "reduce_zero_label would change nothing; remove them"
            )
        self.unlabelled = None if unlabelled is None else self.class_id(unlabelled, "unlabelled")

    @property
    def reading(self) -> dict[str, Any]:
        """Everything that changes what a file means, for the data set's key."""
        reading: dict[str, Any] = {
            "classes": self.vocabulary.num_classes,
            "ignore_index": self.ignore_index,
            "label_map": sorted(self.ids_of_raw.items()),
            "reduce_zero_label": bool(self.reduce_zero_label),
        }
        if self.ids_of_names:
            reading["names"] = sorted(self.ids_of_names.items())
        if self.palette or self.is_grey:
            colours = sorted([*colour, number] for colour, number in self.palette.items())
            reading["palette"] = colours or GREY
        if self.unlabelled is not None:
            reading["unlabelled"] = self.unlabelled
        return reading

    def from_content(self, content: bytes, source: str | Path) -> np.ndarray:
        """(height, width) class ids of the bytes of an image or .npy file, of ``dtype``.

        A damaged file, an unknown id or an unknown colour raises a LabError that names ``source``.
        """
        values = read_mask(source, content, colours=self.is_grey or bool(self.palette))
        if self.palette:
            return ids_of_colours(values, self.palette, source).astype(self.dtype)
        if self.is_grey:
            if (values != values[..., :1]).any():
                raise LabError(f"mask {source}: palette is grey, but its channels differ")
            values = values[..., 0].astype(np.int64)
        return self.from_raw(values, source)

    def from_raw(self, raw: np.ndarray, source: object) -> np.ndarray:
        """(height, width) class ids of a mask's integers. An integer without a class raises an
        error that names ``source``."""
        outside = (raw < 0) | (raw >= TABLE)
        ids = np.where(outside, -1, self._table[np.where(outside, 0, raw)])
        if outside.any():
            for value, number in self.ids_of_raw.items():
                ids[outside & (raw == value)] = self._after_map(np.array(number))
        if (ids < 0).any():
            self._refuse_ids(raw[ids < 0], source)
        return ids.astype(self.dtype)

    def class_id(self, value: Any, key: str, ignored: Sequence[str] = (IGNORE,)) -> int:
        """The id of a class that a yaml or an annotation file states as name, id or "ignore".

        A name in ``ignored`` means ignore_index, unless a class has that name.

        Raises:
            LabError: there is no such class (did you mean); the error names ``key``.
        """
        classes = self.vocabulary.num_classes
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < classes or value == self.ignore_index:
                return value
            raise LabError(
                f"{self.title}: {key} is {value}, outside the {classes} classes of vocabulary "
                f"'{self.vocabulary.name}'"
            )
        text = str(value)
        if text in self.ids_of_names:
            return self.ids_of_names[text]
        for spelling in (text.strip(), plainly(text)):
            if spelling in self._places:
                return self._places[spelling]
        if text.strip().casefold() in ignored:
            return self.ignore_index
        error = unknown(f"class in {key}", text, [*self.vocabulary.names, IGNORE])
        raise LabError(
            f"{self.title}: {error}; label_map: {{{text}: <class or {IGNORE}>}} says what it means"
        )

    def background(self) -> int:
        """The id for pixels that no annotation covers: ``unlabelled``, else the class named
        background; without either a LabError is raised."""
        if self.unlabelled is not None:
            return self.unlabelled
        if BACKGROUND in self._places:
            return self._places[BACKGROUND]
        raise LabError(
            f"{self.title}: what are pixels that no annotation covers? Write "
            f"unlabelled: {IGNORE}, or unlabelled: <name of a class>"
        )

    def paint(self, size: tuple[int, int], regions: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
        """Draw (class id, (height, width) bool) regions on the background, later ones on top."""
        ids = np.full(size, -1, np.int64)
        for number, region in regions:
            ids[region] = number
        if (ids < 0).any():
            ids[ids < 0] = self.background()
        return ids.astype(self.dtype)

    def _add(self, label: Any, target: Any) -> None:
        text = str(label).strip()
        if isinstance(target, str) and target.strip().isdecimal():
            target = int(target)
        if not isinstance(target, int | str) or isinstance(target, bool):
            raise LabError(f"{self.title}: label_map holds what is no id: {label!r}: {target!r}")
        if not text.removeprefix("-").isdecimal():
            self.ids_of_names[str(label)] = self.class_id(target, f"label_map of {label!r}")
        elif isinstance(target, int):
            self.ids_of_raw[int(text)] = target  # its range is checked after reduce_zero_label
        else:
            number = self.class_id(target, f"label_map of {label!r}")
            shift = self.reduce_zero_label and number != self.ignore_index
            self.ids_of_raw[int(text)] = number + shift

    def _after_map(self, ids: np.ndarray) -> np.ndarray:
        """Apply reduce_zero_label to the ids that label_map gave. An id that is then neither a
        class nor ignore_index becomes -1."""
        void = self.ignore_index
        if self.reduce_zero_label:
            ids = np.where((ids == 0) | (ids == void), void, np.where(ids > void, -1, ids - 1))
        allowed = (ids >= 0) & (ids < self.vocabulary.num_classes)
        return np.where(allowed | (ids == void), ids, -1).astype(np.int32)

    def _raw_table(self) -> np.ndarray:
        """(TABLE,) int32: class id or ignore_index of raw ids 0 .. TABLE - 1, -1 for none."""
        ids = np.arange(TABLE)
        for raw, new in self.ids_of_raw.items():
            if self._after_map(np.array(new)) < 0:
                raise LabError(
                    f"{self.title}: label_map sends {raw} to {new}, outside the "
                    f"{self.vocabulary.num_classes} classes of vocabulary '{self.vocabulary.name}'"
                )
            if 0 <= raw < TABLE:
                ids[raw] = new
        return self._after_map(ids)

    def _refuse_ids(self, raw: np.ndarray, source: object) -> None:
        values, counts = np.unique(raw, return_counts=True)
        classes = ranges(np.flatnonzero((self._table >= 0) & (self._table != self.ignore_index)))
        ignored = ranges(np.flatnonzero(self._table == self.ignore_index))
        raise LabError(
            f"mask {source}: id {values[0]} on {counts[0]} pixels ({len(values)} such ids) is "
            f"outside the {self.vocabulary.num_classes} classes of vocabulary "
            f"'{self.vocabulary.name}'; allowed are {classes}, and {ignored} for ignore "
            f"(see dataset.reduce_zero_label and dataset.label_map{self._hint(values)})"
        )

    def _hint(self, values: np.ndarray) -> str:
        """Suggest a label_map in two common cases: masks of 0 and 255, and another id for void."""
        if self.vocabulary.num_classes == 2 and values.tolist() in ([255], [1, 255]):
            return "; label_map: {255: 1} if 255 is the second class"
        if len(values) == 1 and values[0] in (255, 65535, -1):
            return f"; label_map: {{{values[0]}: {IGNORE}}} if it is void"
        return ""


def ranges(ids: np.ndarray) -> str:
    """[0, 1, 2, 7] as "0..2, 7"."""
    parts = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{p[0]}..{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts if len(p))


def _places(vocabulary: Vocabulary) -> dict[str, int]:
    """{name: class id} of all synonyms, as written and as `plainly` spells them."""
    places: dict[str, int] = {}
    for spelling in (str.strip, plainly):
        for name, index in zip(vocabulary.queries, vocabulary.query_classes, strict=True):
            places.setdefault(spelling(name), index)
    return places


def plainly(name: str) -> str:
    """A name in lower case with blanks for underscores, since tools and people differ in these."""
    return readable(name).casefold()
