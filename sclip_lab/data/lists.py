"""Lists of photos as text, csv or json: stems, file names, paths, or pairs of photo and mask."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import csv_rows, read_text

# In the order of preference: a table of photos often has numbers of its own under id.
PHOTO_COLUMNS = ("image", "photo", "img", "image_path", "img_path", "file_name", "filename", "file",
                 "path", "name", "stem", "id", "image_id")  # fmt: skip
MASK_COLUMNS = ("mask", "label", "annotation", "seg_map", "seg_map_path", "mask_path", "label_path")
SPLIT_COLUMNS = ("split", "subset", "set", "fold")
_SEPARATORS = re.compile(r"\s*[,;\t]\s*|\s+")

Find = Callable[[str], str | None]
FindMask = Callable[[str, str | None], str | None]


def read_list(
    path: Path, title: str, find_photo: Find, find_mask: FindMask
) -> list[tuple[str, str | None]]:
    """The samples that a list names, in its order.

    Args:
        path: a text file, csv or json.
        title: begins the errors.
        find_photo: text of the list -> the stem of that photo, or None.
        find_mask: (text of the list, its photo's stem) -> path below the mask folder, or None.

    Returns:
        (stem, mask) of each sample. ``mask`` is None if the list does not name it. A line that
        names no photo becomes the stem itself.

    Raises:
        LabError: the list cannot be read, is empty, lists several splits, or has other columns than
            photo and mask.
    """
    samples: list[tuple[str, str | None]] = []
    header = None
    rows = _rows(path, title)
    for number, row in enumerate(rows, start=1):
        cells = row if len(row) > 1 else _SEPARATORS.split(row[0])
        stem = find_photo(row[0]) if len(row) == 1 or number == 1 else None
        if number == 1 and stem is None and (header := _header(cells)):
            _check_one_split(row, rows[1:], f"{title} {path}")
            continue
        if len(row) == 1 and (stem is not None or len(cells) == 1):  # a name may hold blanks
            samples.append((stem or row[0], None))
            continue
        photo_column, mask_column = header or (0, 1)
        cell = dict(enumerate(cells))
        stem = find_photo(cell.get(photo_column, ""))
        mask = find_mask(cell.get(mask_column, ""), stem)
        # Without a header a third cell may mean anything.
        is_pair = mask is not None and (header is not None or len(cells) == 2)
        if stem is None or not (is_pair or mask_column < 0):
            raise LabError(
                f"{title} {path}, entry {number}: {', '.join(cells)[:80]!r} names no "
                f"{'photo' if stem is None else 'mask'} of this data set; write one stem a line (a "
                "photo's name without folder and suffix), or a photo and its mask"
            )
        samples.append((stem, mask))
    if not samples:
        raise LabError(f"{title} {path} is empty")
    return samples


def _rows(path: Path, title: str) -> list[list[str]]:
    """The list's rows. Rows of a text file are whole lines, without comments and empty lines."""
    text = read_text(path, title)
    try:
        if text.lstrip().startswith(("[", "{")):
            return _json_rows(json.loads(text))
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if path.suffix.lower() == ".csv":
            return csv_rows(lines)
        return [[line] for line in lines]
    except (ValueError, TypeError, csv.Error) as error:
        raise LabError(f"{title} {path}: {error}") from error


def _json_rows(content: object) -> list[list[str]]:
    """The rows of a json list of names, pairs or mappings; keys of mappings make the first row."""
    if not isinstance(content, list) or [] in content:
        raise ValueError("the json must be a list of names")
    if content and all(isinstance(entry, dict) for entry in content):
        header = list(dict.fromkeys(key for entry in content for key in entry))
        content = [header, *([entry.get(key, "") for key in header] for entry in content)]
    return [list(map(str, row)) if isinstance(row, list) else [str(row)] for row in content]


def _header(cells: Sequence[str]) -> tuple[int, int] | None:
    """Which columns hold photo and mask, if the first row names them; -1 for no mask."""
    lower = [cell.lower() for cell in cells]
    photo, mask = (
        next((lower.index(name) for name in names if name in lower), -1)
        for names in (PHOTO_COLUMNS, MASK_COLUMNS)
    )
    return None if photo < 0 else (photo, mask)


def _check_one_split(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Refuse a table that lists the photos of several splits: all of them would be evaluated."""
    for place, name in enumerate(header):
        values = sorted({row[place] for row in rows if place < len(row)})
        if name.lower() in SPLIT_COLUMNS and len(values) > 1:
            raise LabError(
                f"{title}: column '{name}' has several values ({', '.join(values[:5])}); write one "
                "list for each split"
            )


def places_below(text: str, places: Sequence[Path], folder: Path) -> list[str]:
    """Paths below ``folder`` that a list's entry may mean, starting from each of ``places``."""
    plain = text.replace("\\", "/").strip("\"' ")
    relative = plain.lstrip("/").removeprefix("./")
    candidates = [Path(os.path.normpath(place / relative)) for place in places]
    if plain.startswith("/"):
        candidates.insert(0, Path(plain))
    return [
        path.relative_to(folder).as_posix() for path in candidates if path.is_relative_to(folder)
    ]
