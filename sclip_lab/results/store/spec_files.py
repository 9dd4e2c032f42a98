"""The files of one cell: its record in spec.json, other names of it, its tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest


class Kind(NamedTuple):
    """A kind of table in a cell's folder, kept in files that are joined when the cell is finished.

    Attributes:
        name: how the files' names begin.
        types: types by column.
        order: columns by which the rows of an image are sorted.
        once: columns that identify a result; of the files that hold the same result, one is read.
        defaults: values by column, for columns that may be left out when rows are added.
    """

    name: str
    types: dict[str, Any]
    order: list[str]
    once: list[str]
    defaults: dict[str, Any] = {}  # noqa: RUF012

    def files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob(f"{self.name}-*.parquet"))


COUNTS = Kind(
    "rows",
    {"image": str, "true": np.int16, "predicted": np.int16, "pixels": np.int64},
    ["true", "predicted"],
    ["image"],
)
# ``code`` is a digest of the code that measured a value.
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
# Images that were left out, why, and when (seconds since 1970): the last reason counts.
SKIPPED = Kind(
    "skipped", {"image": str, "reason": str, "at": np.float64}, ["at"], ["image", "reason"]
)
KINDS = {kind.name: kind for kind in (COUNTS, MEASURES, SKIPPED)}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a cell's spec.json unless it exists. Its time of creation fixes the cell's place in
    tables, so later writers leave the file as it is."""
    files.write_json(path, record, _belongs("record", path.parent), first=True)


def read_record(path: Path) -> dict[str, Any]:
    """A cell's spec.json, with the names under which the cell was asked for.

    ``names`` (with ``attention``, the label) are the names with the shortest label, the file's own
    if several are as short; ``also`` lists all others.

    Raises:
        Damaged: the file is not what was written for this cell.
        FileNotFoundError: there is no file.
        LabError: the file cannot be opened.
    """
    record = files.read_json(path, _belongs("record", path.parent))
    first_names = {**record["names"], "attention": record["label"]}
    every = [first_names, *(names for names in _aliases(path.parent) if names != first_names)]
    names = min(every, key=lambda names: len(names["attention"]))
    also = [other for other in every if other != names]
    return {**record, "label": names["attention"], "names": names, "also": also}


def add_names(folder: Path, names: Mapping[str, str]) -> None:
    """Keep other names under which the cell in ``folder`` was asked for."""
    path = folder / f"names-{digest(names)[:12]}.json"
    if not path.exists():
        files.write_json(path, {"names": dict(names)}, _belongs("names", folder), first=True)


def _aliases(folder: Path) -> list[dict[str, str]]:
    """Names that `add_names` wrote. A damaged file is passed over: it changes no number."""
    aliases = []
    for path in sorted(folder.glob("names-*.json")):
        try:
            aliases.append(dict(files.read_json(path, _belongs("names", folder))["names"]))
        except (LabError, FileNotFoundError, KeyError):
            continue
    return aliases


def _belongs(kind: str, folder: Path) -> dict[str, str]:
    """What a file's seal says of it, so that a file moved to another cell counts as damaged."""
    return {"kind": kind, "spec": folder.name}


def read(folder: Path, kind: Kind) -> tuple[pd.DataFrame, list[files.Damaged]]:
    """Read all tables of one kind in a cell's folder. Returns their rows, with a column ``file``
    that numbers the files, and the errors of damaged files, which are left out.

    If a writer joins the files meanwhile, they are listed and read again.

    Raises:
        LabError: a file that cannot be opened.
    """
    for _ in range(5):
        empty = pd.DataFrame({name: [] for name in kind.types}).astype(kind.types)
        frames, damaged = [empty.assign(file=0)], []
        try:
            for number, path in enumerate(kind.files(folder)):
                try:
                    frames.append(read_one(path, kind).assign(file=number))
                except files.Damaged as error:
                    damaged.append(error)
            return pd.concat(frames[1:] or frames, ignore_index=True), damaged
        except FileNotFoundError:
            continue
    raise LabError(f"{folder} changes while it is read; try again")


def read_one(path: Path, kind: Kind) -> pd.DataFrame:
    """Read one table of the cell in whose folder it lies. Raises the errors of `files.read`."""
    frame = files.read_table(path, _belongs(kind.name, path.parent), list(kind.types))
    return frame.astype(kind.types)


def write(folder: Path, kind: Kind, frame: pd.DataFrame, *, sync: bool = False) -> Path:
    """Add one table with these rows to a cell's folder."""
    frame = frame[list(kind.types)].astype(kind.types)
    return files.write_table(folder, kind.name, frame, _belongs(kind.name, folder), sync=sync)


def joined(frames: Sequence[Mapping[str, Any]], kind: Kind) -> pd.DataFrame:
    """Join mappings of columns to one table; one value may stand for all rows of a mapping."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in kind.types}
    for frame in frames:
        row = {**kind.defaults, **frame}
        columns = {name: np.atleast_1d(np.asarray(row[name])) for name in kind.types}
        rows = max(map(len, columns.values()))
        for name, values in columns.items():
            parts[name].append(np.broadcast_to(values, rows))
    return pd.DataFrame({name: np.concatenate(values) for name, values in parts.items()})


def each_once(frame: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """Drop results that another file of the cell holds too: both writers computed the same."""
    return frame[frame["file"] == frame.groupby(kind.once)["file"].transform("min")]


def by_code_of_today(frame: pd.DataFrame) -> pd.Series:
    """Which rows of ``MEASURES`` were measured by the code of today. Rows of a measure that this
    program does not know are included: nothing says that its code has changed."""
    from sclip_lab import diagnostics  # imports torch, which most readers never need

    codes = {name: diagnostics.code_of(name) for name in frame["measure"].unique()}
    today = frame["measure"].map(codes)
    return (frame["code"] == today) | (today == "")


def skipped(frame: pd.DataFrame, done: Collection[str]) -> dict[str, str]:
    """{image: last reason to leave it out} of rows of ``SKIPPED``, without the ``done`` images."""
    frame = frame.sort_values("at")
    last = dict(zip(frame["image"], frame["reason"], strict=True))
    return {image: reason for image, reason in last.items() if image not in done}
