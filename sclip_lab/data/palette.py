"""Colours of masks: from a yaml, CVAT's labelmap.txt or a csv with the columns name, r, g, b."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import csv_rows, read_text

IGNORED_NAMES = ("ignore", "void", "unlabeled", "unlabelled")
_POWERS = np.array([65536, 256, 1])  # of red, green and blue in a colour's code
Colours = dict[tuple[int, int, int], int]  # (red, green, blue) -> class id or ignore_index
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


def read_palette(value: Any, root: Path, title: str, class_id: Callable[..., int]) -> Colours:
    """The colours of masks and their classes, as a yaml states them.

    Args:
        value: a file below ``root``; {name, id or "ignore": colour}; or a list of colours in id
            order. A colour is [red, green, blue] or "#rrggbb".
        root: the data set's folder.
        title: begins the errors.
        class_id: `sclip_lab.data.class_ids.ClassIds.class_id`.

    Raises:
        LabError: no colour, a colour that stands for two classes, or an unknown class.
    """
    source = "palette"
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(value, str):
        source = f"palette {root / value}"
        pairs = file_rows(root / value)
    elif isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, Sequence):
        pairs = enumerate(value)
    else:
        raise LabError(f"{title}: palette: {value!r} must map classes to colours")
    colours: Colours = {}
    for label, colour in pairs:
        key = _colour(colour, f"{title}: {source}")
        number = class_id(label, source, IGNORED_NAMES)
        if colours.setdefault(key, number) != number:
            raise LabError(f"{title}: {source}: colour {list(key)} stands for two classes")
    if not colours:
        raise LabError(f"{title}: {source} has no colour")
    return colours


def ids_of_colours(pixels: np.ndarray, colours: Colours, source: object) -> np.ndarray:
    """(height, width) int64 class ids of (height, width, 3) uint8 colours.

    Raises:
        LabError: a colour of ``source`` that is not among ``colours``.
    """
    listed = np.array(sorted(colours))
    numbers = np.array([colours[colour] for colour in sorted(colours)])
    known_codes, codes = listed @ _POWERS, pixels.astype(np.int64) @ _POWERS
    places = np.searchsorted(known_codes, codes).clip(max=len(listed) - 1)
    strange = known_codes[places] != codes
    if strange.any():
        values, counts = np.unique(codes[strange], return_counts=True)
        most = int(counts.argmax())
        colour = values[most] // _POWERS % 256
        nearest = listed[((listed - colour) ** 2).sum(axis=1).argmin()]
        raise LabError(
            f"mask {source}: colour {colour.tolist()} on {counts[most]} pixels ({len(values)} such "
            f"colours) is not in the palette; the nearest there is {nearest.tolist()}. Add it (a "
            "colour for ignore: may be listed too), or look whether the file was smoothed or lossy"
        )
    return numbers[places]


def _colour(value: Any, source: str) -> tuple[int, int, int]:
    if isinstance(value, str) and (match := _HEX.fullmatch(value.strip())):
        value = list(bytes.fromhex(match[1]))
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in numbers):
        raise LabError(f"{source}: {value!r} is no colour; write [red, green, blue] of 0 .. 255")
    return numbers[0], numbers[1], numbers[2]


def file_rows(path: Path) -> list[tuple[str, list[int]]]:
    """(name, colour) of each row of a labelmap.txt or a csv."""
    text = read_text(path, "palette")
    try:
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if path.suffix.lower() == ".csv":
            header, *rows = csv_rows(lines)
            places = [[cell.lower() for cell in header].index(key) for key in ("name", *"rgb")]
            fields = [[row[place] for place in places] for row in rows]
        else:
            fields = [
                [parts[0], *parts[1].split(",")] for parts in (one.split(":") for one in lines)
            ]
        return [(name, [int(part) for part in colour]) for name, *colour in fields]
    except (ValueError, LookupError, csv.Error) as error:
        raise LabError(
            f"palette {path}: cannot be read ({error!r}); a line is 'name:red,green,blue::' as in "
            "CVAT's labelmap.txt, or a csv has the columns name, r, g, b"
        ) from error
