"""A set of vectors with other weights, images, sizes and names.

``python -m tests.parity_set FROM TO [FILE ...]``. The official codes are not here, so its outputs
are our own. It says nothing about a method; it shows that the comparisons take seeds, inputs, sizes
and settings from the set, not from the public one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

from sclip_lab.segmentation import windows
from tests.parity.compare import registered
from tests.parity.vector_set import Arrays, VectorSet, folder_set

# Of the same kinds as the public inputs (trained size, square, wide, with a rest), in their order.
OTHERS = [
    ("north", 224, 224, 11),
    ("south", 224, 224, 12),
    ("east", 256, 304, 13),
    ("west", 320, 432, 14),
    ("centre", 272, 272, 15),
    ("rest", 227, 340, 16),
    ("narrow", 112, 432, 17),
]
SEEDS = {"second": {"weights": 77, "text": 78, "photo": 79}}


def make(source: Path, target: Path, names: Collection[str] = ()) -> None:
    """Write a second set.

    Args:
        source: a folder of vectors with a make_clip.py.
        target: a new folder.
        names: files to make, without their ending; none: all.
    """
    public = folder_set(source)
    renamed = dict(zip(public.inputs, (name for name, *_ in OTHERS), strict=True))
    target.mkdir(parents=True)
    (target / "make_clip.py").write_text(generator(Path(str(public.clip.__file__)).read_text()))
    for name in public.files:
        if not names or name in names:
            np.savez(target / f"{name}.npz", **dict(rewritten(public.load(name), renamed)))
    metas = {name: public.meta(name) for name in public.files}
    (target / "meta.json").write_text(told(json.dumps(metas), renamed))
    second = folder_set(target)
    for name in second.files:
        placed = fitted(second, second.load(name))
        for _ in range(2):  # what is found by its fit is found in the second round
            problems = [
                each for one in registered()[name] for each in one(second, name, Arrays(placed))
            ]
            placed |= {
                one.array: np.asarray(one.ours, placed[one.array].dtype)
                for one in problems
                if one.ours is not None and one.array in placed
            }
        np.savez(target / f"{name}.npz", **placed)


def generator(code: str) -> str:
    """make_clip.py with other seeds and inputs."""
    code = re.sub(r"(?m)^SEEDS = .*$", f"SEEDS = {SEEDS!r}", code)
    return re.sub(r"(?ms)^INPUTS = \{.*?^\}", f"INPUTS = {{'second': {OTHERS!r}}}", code)


def told(words: str, renamed: dict[str, str]) -> str:
    """Words with the inputs' other names."""
    for old, new in sorted(renamed.items(), key=lambda pair: -len(pair[0])):
        words = words.replace(old, new)
    return words


def rewritten(arrays: Arrays, renamed: dict[str, str]) -> dict[str, np.ndarray]:
    return {told(key, renamed): arrays[key] for key in arrays}


def fitted(second: VectorSet, arrays: Arrays) -> dict[str, np.ndarray]:
    """Row numbers that the other sizes have, and a second network's features for their windows."""
    result = {key: arrays[key] for key in arrays}
    for key, array in arrays.items():
        case = key.partition("__")[0]
        try:
            image = second.image(case)
        except Exception:
            image = None
        if image is not None and key.endswith("_index"):
            grid = re.search(r"_g(\d+)$", case)
            sides = (
                [int(grid[1])] * 2 if grid else [s // second.clip.PATCH for s in image.shape[-2:]]
            )
            result[key] = (array % (sides[0] * sides[1])).astype(array.dtype)
        if image is None and key == "guidance":
            [of] = {k.partition("__")[0] for k in arrays if k.endswith("__window_feats")}
            size = tuple(second.image(of).shape[-2:])
            count = windows.plan(size, size, 224, 112, second.clip.PATCH).num_windows
            result[key] = np.resize(array, (count, *array.shape[1:])).astype(array.dtype)
    return result


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
