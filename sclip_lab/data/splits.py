"""The parts of a data set, and what ``{split}`` stands for in the paths of a yaml."""

from __future__ import annotations

import re
from pathlib import Path

from sclip_lab.core.errors import LabError, unknown

SPLIT = "{split}"


def has_split(*templates: str | None) -> bool:
    """Whether a path holds {split}."""
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
    """A split that is a list file, in a yaml without {split}."""
    if not (root / split).exists() and not Path(split).suffix:
        raise LabError(
            f"dataset.split is '{split}', but none of images, masks and split_list holds "
            f"'{SPLIT}', and there is no list {root / split}"
        )
    return split


def known_splits(root: Path, template: str) -> list[str]:
    """Names that {split} can stand for in a path, by the files that exist."""
    head, _, tail = template.partition(SPLIT)
    again = re.escape(tail).replace(re.escape(SPLIT), r"\1")
    pattern = re.compile(f"{re.escape(head)}([^/]+){again}")
    places = root.glob(template.replace(SPLIT, "*"))
    names = (pattern.fullmatch(place.relative_to(root).as_posix()) for place in places)
    return sorted({name[1] for name in names if name})
