"""The parquet files of one cell: what each sort holds, and reading all of one sort at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sclip_lab.core import sealed
from sclip_lab.core.errors import LabError


class Kind(NamedTuple):
    """A sort of file in a cell's folder: its columns, their order, and what occurs once; and the
    values of columns that older files do not have."""

    name: str
    types: dict[str, Any]
    order: list[str]
    once: list[str]
    defaults: dict[str, Any] = {}  # noqa: RUF012

    def files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob(f"{self.name}-*.parquet"))

    def empty(self) -> pd.DataFrame:
        return pd.DataFrame({name: [] for name in self.types}).astype(self.types)


COUNTS = Kind(
    "rows",
    {"image": str, "true": np.int16, "predicted": np.int16, "pixels": np.int64},
    ["true", "predicted"],
    ["image"],
)
# ``code`` says by which code a value was measured ("": older files did not say).
MEASURES = Kind(
    "diagnostics",
    {
        "image": str, "measure": str, "code": str, "layer": np.int16, "head": np.int16,
        "value": np.float64,
    },
    ["measure", "layer", "head"],
    ["image", "measure", "code", "layer", "head"],
    {"code": "", "layer": -1, "head": -1},
)  # fmt: skip
# Images that were left out, why, and when (seconds since 1970): the last one counts.
SKIPPED = Kind(
    "skipped", {"image": str, "reason": str, "at": np.float64}, ["at"], ["image", "reason"]
)
KINDS = {kind.name: kind for kind in (COUNTS, MEASURES, SKIPPED)}


class Chunks(NamedTuple):
    """What the files of one sort hold.

    Attributes:
        frame: the kind's columns, and ``file``, a number per file.
        damaged: files that were passed over.
        unsealed: files of earlier versions, which carry no seal.
    """

    frame: pd.DataFrame
    damaged: list[sealed.Damaged]
    unsealed: list[Path]


def read(folder: Path, kind: Kind, key: str) -> Chunks:
    """All files of one kind in the folder of the cell with this key.

    A writer may join them at that moment: then they are listed anew.

    Raises:
        LabError: a file that cannot be opened.
    """
    for _ in range(5):
        frames, damaged, unsealed = [kind.empty().assign(file=0)], [], []
        try:
            for number, path in enumerate(kind.files(folder)):
                try:
                    found = read_one(path, kind, key)
                except sealed.Damaged as error:
                    damaged.append(error)
                    continue
                frames.append(found.content.assign(file=number))
                if not found.sealed:
                    unsealed.append(path)
            return Chunks(pd.concat(frames[1:] or frames, ignore_index=True), damaged, unsealed)
        except FileNotFoundError:
            continue
    raise LabError(f"{folder} changes while it is read; try again")


def read_one(path: Path, kind: Kind, key: str) -> sealed.Read:
    """One file, its columns in the kind's types.

    Raises:
        Damaged: see `sealed.read_table`; also values that cannot be.
        FileNotFoundError: it is gone.
    """
    needed = [name for name in kind.types if name not in kind.defaults]
    found = sealed.read_table(path, kind.name, {"cell": key}, needed, list(kind.defaults))
    frame = found.content
    frame = frame.assign(**{k: v for k, v in kind.defaults.items() if k not in frame})
    return sealed.Read(typed(path, frame, kind), found.sealed)


def typed(path: Path, frame: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """A frame's columns in the kind's types.

    Raises:
        Damaged: values that cannot be.
    """
    try:
        made = frame[list(kind.types)].astype(kind.types)
        fault = _fault(frame, made, kind)
    except (ValueError, TypeError, OverflowError) as error:
        fault = f"not a table of {kind.name}: {error}"
    if fault:
        raise sealed.Damaged(path, f"cannot be read ({fault})")
    return made


def _fault(given: pd.DataFrame, typed: pd.DataFrame, kind: Kind) -> str | None:
    """What cannot be in a table of this kind; a seal is no signature."""
    for name, wanted in kind.types.items():
        if wanted is str:
            if not all(isinstance(value, str) for value in given[name].astype(object)):
                return f"{name} holds what is no text"
        elif not pd.api.types.is_numeric_dtype(given[name].dtype):
            return f"{name} holds what is no number"
        elif np.issubdtype(wanted, np.integer) and not (typed[name] == given[name]).all():
            return f"{name} holds a number that is none of {np.dtype(wanted)}"
        elif np.isinf(typed[name]).any():
            return f"{name} holds a number that is not finite"
    counts = [name for name in ("true", "predicted", "pixels") if name in typed]
    return "a count or a class id is negative" if (typed[counts] < 0).any(axis=None) else None


def each_once(frame: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """Without what a second writer found as well: it found the same."""
    return frame[frame["file"] == frame.groupby(kind.once)["file"].transform("min")]


def of_today(frame: pd.DataFrame) -> pd.Series:
    """Which rows of ``MEASURES`` the code of today measured; a measure that is no more counts."""
    from sclip_lab.diagnostics import code  # imports torch, which most readers never need

    today = frame["measure"].map({name: code.of(name) for name in frame["measure"].unique()})
    return (frame["code"] == today) | (today == "")


def skipped(frame: pd.DataFrame, done: Collection[str]) -> dict[str, str]:
    """Why images were last left out, from rows of ``SKIPPED``; not those that are done since."""
    frame = frame.sort_values("at")
    last = dict(zip(frame["image"], frame["reason"], strict=True))
    return {image: reason for image, reason in last.items() if image not in done}


def joined(frames: Sequence[Mapping[str, Any]], kind: Kind) -> pd.DataFrame:
    """The rows of several mappings of columns, equally long or one value for all rows."""
    given = [{**kind.defaults, **frame} for frame in frames]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in kind.types}
    for frame in given:
        columns = {name: np.atleast_1d(np.asarray(frame[name])) for name in kind.types}
        rows = max(map(len, columns.values()))
        for name, values in columns.items():
            parts[name].append(np.broadcast_to(values, rows))
    return pd.DataFrame({name: np.concatenate(values) for name, values in parts.items()})


def write(folder: Path, kind: Kind, key: str, frame: pd.DataFrame, *, sync: bool = False) -> Path:
    """Add one file with these rows."""
    frame = frame[list(kind.types)].astype(kind.types)
    return sealed.write_table(folder, kind.name, frame, {"cell": key}, sync=sync)
