"""Pictures: a photo with its mask and predictions, kept to draw figures from.

Layout below the store's root, arrays in compressed npz files:

    images/<first 12 digits of the data set's digest>/<image>.npz
        image (height, width, 3) uint8; mask (height, width) uint8
    specs/<key>/pictures/<image>.npz
        prediction (height, width) uint8; and, where points were asked for,
        points (points, 2) int32: row, column in pixels of the photo;
        attention (points, grid_h, grid_w) float32: the weights, averaged over heads, with which
        the patch under the point looks at the patches of its window;
        attention_box (points, 4) int32: top, left, height, width of that window in pixels.

A variant without one attention map (such as a parallel path over several blocks) has points only.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from sclip_lab import results
from sclip_lab.core import files
from sclip_lab.results.store.reading import SHORT, spec_table
from sclip_lab.results.store.spec_labels import labels

PHOTO, PREDICTION = "photo", "prediction"
_DIGITS = 12
_LONGEST = 200  # letters of a file's name; file systems allow 255 with all endings


@dataclass(frozen=True)
class Prediction:
    """One variant's prediction of one photo; the module's docstring describes the arrays."""

    label: str
    prediction: npt.NDArray[np.uint8]
    points: npt.NDArray[np.int32] | None = None
    attention: npt.NDArray[np.float32] | None = None
    attention_box: npt.NDArray[np.int32] | None = None
    spec: str = ""  # beginning of the key, as in a results DataFrame


@dataclass(frozen=True)
class Picture:
    """One photo with its mask and the predictions that were kept of it."""

    name: str
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    class_names: list[str]
    ignore_index: int
    predictions: list[Prediction]


def save(
    root: str | Path, kind: str, owner: str, name: str, **arrays: npt.NDArray[Any] | None
) -> Path:
    """Keep a photo with its mask, or one cell's prediction of it.

    Args:
        kind: `PHOTO`, kept once for all cells of a data set, or `PREDICTION`.
        owner: the data set's digest, or the cell's key. name: of the photo.
        **arrays: see the module's docstring; those that are None are left out.
    """
    file, belongs = _place(Path(root), kind, owner, name)
    files.sweep(file.parent)
    present = {part: values for part, values in arrays.items() if values is not None}
    files.write_arrays(file, present, belongs)
    return file


def has(root: str | Path, kind: str, owner: str, name: str) -> bool:
    """Whether a photo or prediction is in the store; a damaged file is set aside."""
    try:
        files.read(*_place(Path(root), kind, owner, name))
    except FileNotFoundError:
        return False
    except files.Damaged as damaged:
        files.set_aside(Path(root), damaged)
        return False
    return True


def load(root: str | Path, keys: Sequence[str] | None = None) -> list[Picture]:
    """The pictures of a store.

    Args:
        root: the store's root.
        keys: only these specs, each a key or the beginning of one; all if None.

    Returns:
        One picture per photo of a data set, photos in the data set's order, predictions in the
        order of the specs' creation. Labels are unique: see `sclip_lab.results.store.spec_labels`.
    """
    root = Path(root)
    pictures: dict[tuple[str, str], Picture] = {}
    damaged: list[files.Damaged] = []
    records = [
        r for r in results.records(root, keys) if (root / "specs" / r["key"] / "pictures").is_dir()
    ]
    table = spec_table(records)
    labels_by_key = dict(zip(table["spec"], labels(table), strict=True))
    for record in records:
        config = record["config"]["dataset"]
        for name in record["images"]:
            if not _place(root, PREDICTION, record["key"], name)[0].is_file():
                continue
            place = (config["digest"][:_DIGITS], name)
            try:
                arrays = _read(root, PREDICTION, record["key"], name)
                photo = _read(root, PHOTO, *place) if place not in pictures else {}
            except files.Damaged as error:
                damaged.append(error)
                continue
            if photo:
                pictures[place] = Picture(
                    name=name,
                    image=photo["image"],
                    mask=photo["mask"],
                    class_names=list(record["class_names"]),
                    ignore_index=int(config.get("ignore_index", 255)),
                    predictions=[],
                )
            key = record["key"][:SHORT]
            pictures[place].predictions.append(Prediction(labels_by_key[key], **arrays, spec=key))
    if damaged and (keys is not None or not pictures):
        raise damaged[0]
    if damaged:
        names = "; ".join(map(str, damaged))
        warnings.warn(f"left out of {root}, damaged: {names}; evaluate again", stacklevel=2)
    return list(pictures.values())


def check(file: Path, kind: str, owner: str, names: Sequence[str]) -> None:
    """Raise Damaged unless ``file`` is a whole picture of one of the photos ``names``; ``kind`` is
    ``PHOTO`` or ``PREDICTION``, ``owner`` the data set's digest or the cell's key."""
    for name in names:
        if _file_name(name) == file.name:
            files.read(file, _belongs(kind, owner, name))
            return
    raise files.Damaged(file, "belongs to no photo of the store's cells")


def _place(root: Path, kind: str, owner: str, name: str) -> tuple[Path, dict[str, str]]:
    """The file of a data set's photo or of a cell's prediction, and what the file belongs to."""
    folder = (
        root / "images" / owner[:_DIGITS] if kind == PHOTO else root / "specs" / owner / "pictures"
    )
    return folder / _file_name(name), _belongs(kind, owner, name)


def _file_name(name: str) -> str:
    """The file name for a photo; a long name is cut and gets a digest."""
    quoted = quote(name, safe="")
    if len(quoted) > _LONGEST:
        quoted = f"{quoted[: _LONGEST - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{quoted}.npz"


def _belongs(kind: str, owner: str, name: str) -> dict[str, str]:
    of = {"dataset": owner[:_DIGITS]} if kind == PHOTO else {"spec": owner}
    return {"kind": kind, **of, "image": name}


def _read(root: Path, kind: str, owner: str, name: str) -> dict[str, Any]:
    file, belongs = _place(root, kind, owner, name)
    try:
        return files.read_arrays(file, belongs)
    except FileNotFoundError:
        raise files.Damaged(file, "cannot be read (no such file)") from None
