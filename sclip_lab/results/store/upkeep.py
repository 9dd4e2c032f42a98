"""Lists, verifies, repairs, cleans and exports a store."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.results.store import picture_files, spec_files
from sclip_lab.results.store.reading import EXPORT, load, other_names, records
from sclip_lab.results.store.spec_files import COUNTS, KINDS

STATES = ("damaged", "lost", "orphan", "set aside")


class Finding(NamedTuple):
    """One file of a store that needs attention.

    Attributes:
        path: the file.
        state: ``damaged``, ``lost`` (a temporary file that nobody writes any more), ``orphan``
            (of a cell without spec.json) or ``set aside``.
        reason: why it needs attention, in words.
    """

    path: Path
    state: str
    reason: str


def check(root: Path) -> Iterator[Finding]:
    """Read every file of a store, and report each that needs attention.

    Raises:
        LabError: there is no store.
    """
    if not root.is_dir():
        raise LabError(f"no store in {root}: no such folder")
    names = list(dict.fromkeys(name for record in _readable(root) for name in record["images"]))
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        inside = path.relative_to(root).parts
        if inside[0] == files.DAMAGED:
            yield Finding(path, "set aside", "see what it was, then sclip-lab store gc --damaged")
        elif files.is_temporary(path):
            if files.is_lost(path):
                yield Finding(path, "lost", "a process died while it wrote this")
        elif _is_orphan(root, inside):
            yield Finding(path, "orphan", "belongs to a cell without spec.json")
        else:
            try:
                _read(path, inside, names)
            except FileNotFoundError:  # gone since it was listed
                continue
            except LabError as error:
                yield Finding(path, "damaged", getattr(error, "reason", str(error)))


def repair(root: Path) -> list[Finding]:
    """Set damaged files aside, and return them."""
    damaged = [finding for finding in check(root) if finding.state == "damaged"]
    for finding in damaged:
        files.set_aside(root, files.Damaged(finding.path, finding.reason))
    return damaged


def collect(root: Path, *, damaged: bool = False, orphans: bool = False) -> list[Finding]:
    """Files that can be deleted: lost temporary files and, on request, files that were set aside
    and files of cells without spec.json. Deletes nothing."""
    deleted = {"lost": True, "set aside": damaged, "orphan": orphans}
    return [finding for finding in check(root) if deleted.get(finding.state)]


def contents(root: Path) -> pd.DataFrame:
    """One row per cell: key, label, backbone, dataset, protocol, split and selection of photos,
    other names, date, images done and in all, MB. Columns without any value are left out."""
    rows = []
    for record in records(root):
        folder, data = root / "specs" / record["key"], record["config"].get("dataset", {})
        counts, _ = spec_files.read(folder, COUNTS)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rows.append(
            {
                "key": record["key"][:12],
                "attention": record["label"],
                **{name: record["names"][name] for name in ("backbone", "dataset", "protocol")},
                **{name: data.get(name) or "" for name in ("split", "selection")},
                "also": "; ".join(other_names(record)),
                "created": str(record["created"])[:16].replace("T", " "),
                "done": counts["image"].nunique(),
                "images": len(record["images"]),
                "MB": round(size / 1e6, 2),
            }
        )
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if not table[name].astype(str).any()])


def export(root: Path, target: Path, keys: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Write specs as two files that any tool can read.

    ``<target>.parquet`` has one tidy row per (spec, image, true, predicted), as
    `sclip_lab.results.load` gives them; ``<target>.json`` has the specs' records and what the
    columns mean.

    Raises:
        LabError: nothing to export, or the files cannot be written.
    """
    if not target.name:
        raise LabError(f"{target}: give the export a name in it, as in {target / 'export'}")
    frame = load(root, keys, partial=True)
    plain_frame = frame.astype(
        {name: str for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)}
    )
    plain_frame.attrs = {}
    table, about = (target.with_name(f"{target.name}.{end}") for end in ("parquet", "json"))
    files.write(table, lambda temporary: plain_frame.to_parquet(temporary, index=False))
    described = {
        "columns": {
            "spec": "first 12 digits of the cell's key",
            "image": "the photo's name",
            "true": "class id of the mask",
            "predicted": "class id of the prediction",
            "pixels": "how many; scores are sums of these",
        },
        "table": table.name,
        "table_digest": hashlib.sha256(table.read_bytes()).hexdigest(),
        "cells": records(root, keys),
    }
    files.write_json(about, described, EXPORT)
    return table, about


def _readable(root: Path) -> list[dict[str, Any]]:
    """The records that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `check` names the others
            return records(root)
    except LabError:
        return []


def _is_orphan(root: Path, inside: tuple[str, ...]) -> bool:
    if inside[0] != "specs" or len(inside) < 3 or inside[2] == "spec.json":
        return False
    return not (root / "specs" / inside[1] / "spec.json").is_file()


def _read(path: Path, inside: tuple[str, ...], names: Sequence[str]) -> None:
    """Raise Damaged where the file ``path`` is damaged. ``inside`` are the parts of its path below
    the store's root, ``names`` the names of all photos."""
    if inside[0] == "specs" and inside[2:] == ("spec.json",):
        spec_files.read_record(path)
    elif inside[0] == "specs" and len(inside) == 3:
        for kind in KINDS.values():
            if path in kind.files(path.parent):
                spec_files.read_one(path, kind)
    elif inside[0] == "specs" and inside[2:3] == ("pictures",) and path.suffix == ".npz":
        picture_files.check(path, picture_files.PREDICTION, inside[1], names)
    elif inside[0] == "images" and len(inside) == 3 and path.suffix == ".npz":
        picture_files.check(path, picture_files.PHOTO, inside[1], names)
    elif inside[0] in ("text", "trunk") and path.suffix == ".safetensors":
        files.read(path, {"kind": inside[0], "key": path.stem})


def described(findings: Sequence[Finding], root: Path) -> str:
    """One line per finding, then a line with the number of findings of each state."""
    lines = [f"{f.state:>9}  {f.path.relative_to(root)}  ({f.reason})" for f in findings]
    counts = [f"{sum(f.state == state for f in findings)} {state}" for state in STATES]
    return "\n".join([*lines, ", ".join(counts)])
