"""Prediction pictures kept beside the numbers: what the qualitative figures are drawn from.

Layout below the store's root, arrays in compressed npz files:

    images/<first 12 digits of the data set's digest>/<image>.npz
        image (height, width, 3) uint8; mask (height, width) uint8
    specs/<key>/panels/<image>.npz
        prediction (height, width) uint8; and, where points were asked for,
        points (points, 2) int32: row, column in pixels of the photo;
        attention (points, grid_h, grid_w) float32: the weights, averaged over heads, with which
        the patch under the point looks at the patches of its window;
        attention_box (points, 4) int32: top, left, height, width of that window in pixels.

A variant without one attention map (such as a parallel path over several blocks) has points only.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from sclip_lab import atomic, results
from sclip_lab.errors import LabError

_DIGITS = 12


@dataclass(frozen=True)
class Prediction:
    """What one variant made of one photo; the arrays are described at the top of the file."""

    label: str
    prediction: npt.NDArray[np.uint8]
    points: npt.NDArray[np.int32] | None = None
    attention: npt.NDArray[np.float32] | None = None
    attention_box: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Panel:
    """One photo with its mask and the predictions of all variants that kept one."""

    name: str
    dataset: str
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    class_names: list[str]
    ignore_index: int
    predictions: list[Prediction]


def save_image(
    root: str | Path,
    digest: str,
    name: str,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
) -> Path:
    """Keep a photo with its mask, once for all specs of the data set with this digest."""
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != mask.shape:
        raise LabError(
            f"image '{name}': photo {image.shape} and mask {mask.shape}; "
            "expected (height, width, 3) and (height, width)"
        )
    return _write(_image_file(Path(root), digest, name), image=image, mask=mask)


def has_image(root: str | Path, digest: str, name: str) -> bool:
    """Whether a photo has been kept."""
    return _image_file(Path(root), digest, name).is_file()


def has_prediction(root: str | Path, key: str, name: str) -> bool:
    """Whether one spec's prediction for a photo has been kept."""
    return _prediction_file(Path(root), key, name).is_file()


def save_prediction(
    root: str | Path,
    key: str,
    name: str,
    prediction: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32] | None = None,
    attention: npt.NDArray[np.float32] | None = None,
    attention_box: npt.NDArray[np.int32] | None = None,
) -> Path:
    """Keep one spec's prediction for one photo, with its attention maps if it has any."""
    count = 0 if points is None else len(points)
    wanted = {"points": (count, 2), "attention_box": (count, 4)}
    given = {"points": points, "attention": attention, "attention_box": attention_box}
    arrays = {part: value for part, value in given.items() if value is not None}
    for part, value in arrays.items():
        shape = wanted.get(part, (count, *value.shape[1:]))
        if value.shape != shape or (part == "attention" and value.ndim != 3):
            raise LabError(f"image '{name}': {part} has shape {value.shape} for {count} points")
    if (attention is None) != (attention_box is None):
        raise LabError(f"image '{name}': attention and attention_box come together or not at all")
    if prediction.ndim != 2:
        raise LabError(f"image '{name}': prediction has shape {prediction.shape}, not 2-d")
    return _write(_prediction_file(Path(root), key, name), prediction=prediction, **arrays)


def load(root: str | Path, keys: Sequence[str] | None = None) -> list[Panel]:
    """The panels of a store.

    Args:
        root: the store's root.
        keys: only these specs, each a key or the beginning of one; all if None.

    Returns:
        One panel per photo of a data set, photos in the data set's order, predictions in the
        order of the specs' creation. Labels that would occur twice get the backbone and protocol.
    """
    root = Path(root)
    panels: dict[tuple[str, str], Panel] = {}
    kept = [
        r for r in results.records(root, keys) if (root / "specs" / r["key"] / "panels").is_dir()
    ]
    for record in kept:
        config = record["config"]["dataset"]
        for name in record["images"]:
            file = _prediction_file(root, record["key"], name)
            if not file.is_file():
                continue
            place = (config["digest"][:_DIGITS], name)
            if place not in panels:
                photo = _read(_image_file(root, *place))
                panels[place] = Panel(
                    name=name,
                    dataset=record["names"]["dataset"],
                    image=photo["image"],
                    mask=photo["mask"],
                    class_names=list(record["class_names"]),
                    ignore_index=int(config.get("ignore_index", 255)),
                    predictions=[],
                )
            prediction = Prediction(label=_label(record, kept), **_read(file))
            panels[place].predictions.append(prediction)
    return list(panels.values())


def _label(record: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """The variant's label, with what else is needed to tell it from the others of its data set."""
    label, names = record["label"], record["names"]
    twins = [
        other["names"]
        for other in records
        if other["label"] == label and other["names"]["dataset"] == names["dataset"]
    ]
    for part in ("backbone", "protocol"):
        if len({twin[part] for twin in twins}) > 1:
            label += f" · {names[part]}"
    return str(label)


def _image_file(root: Path, digest: str, name: str) -> Path:
    return root / "images" / digest[:_DIGITS] / f"{quote(name, safe='')}.npz"


def _prediction_file(root: Path, key: str, name: str) -> Path:
    return root / "specs" / key / "panels" / f"{quote(name, safe='')}.npz"


def _write(file: Path, **arrays: npt.NDArray[Any]) -> Path:
    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    atomic.write(file, save)
    return file


def _read(file: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise LabError(f"{file} cannot be read ({error}); delete it and run again") from error
