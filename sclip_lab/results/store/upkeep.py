"""Looking after a store: what is in it, what is damaged or not needed, and taking some along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sclip_lab.core import atomic, sealed
from sclip_lab.core.errors import LabError
from sclip_lab.results.store import cells, chunks, panels
from sclip_lab.results.store.chunks import COUNTS, KINDS
from sclip_lab.results.store.loading import load, records

STATES = ("damaged", "unsealed", "lost", "orphan", "set aside")
_ORPHAN = "belongs to a cell without spec.json"


class Finding(NamedTuple):
    """One file that is not as it should be.

    Attributes:
        path: which.
        state: ``damaged``, ``unsealed`` (of an earlier version), ``lost`` (a temporary file that
            nobody writes any more), ``orphan`` (of a cell without spec.json) or ``set aside``.
        reason: in words.
    """

    path: Path
    state: str
    reason: str


def check(root: Path) -> Iterator[Finding]:
    """Read every file of a store, and say what is wrong with which.

    Raises:
        LabError: there is no store.
    """
    if not root.is_dir():
        raise LabError(f"no store in {root}: no such folder")
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        if not path.is_file():
            continue
        if inside[0] == sealed.DAMAGED:
            yield Finding(path, "set aside", "see what it was, then sclip-lab store gc --damaged")
        elif atomic.is_temporary(path):
            if atomic.is_lost(path):
                yield Finding(path, "lost", "a process died while it wrote this")
        else:
            read = _reader(root, path, inside)
            finding = None if read is None else _finding(path, read)
            if finding is not None:
                yield finding


def repair(root: Path) -> list[Finding]:
    """Set damaged files aside, and seal the sound ones of earlier versions.

    Returns:
        what was done to which file.
    """
    done = []
    for finding in list(check(root)):
        if finding.state == "damaged":
            sealed.set_aside(root, sealed.Damaged(finding.path, finding.reason))
            done.append(finding)
        elif finding.state == "unsealed" and _seal(root, finding.path):
            done.append(finding)
    return done


def collect(root: Path, *, damaged: bool = False, orphans: bool = False) -> list[Finding]:
    """What can be deleted: lost temporary files, and on demand what was set aside and what
    belongs to no cell. Deletes nothing itself."""
    states = {"lost"}
    if damaged:
        states.add("set aside")
    if orphans:
        states.add("orphan")
    return [finding for finding in check(root) if finding.state in states]


def contents(root: Path) -> pd.DataFrame:
    """One row per cell: key, label, backbone, dataset, protocol, images done and in all, MB."""
    rows = []
    for record in records(root):
        folder = root / "specs" / record["key"]
        found = chunks.read(folder, COUNTS, record["key"]).frame
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rows.append(
            {
                "key": record["key"][:12],
                "attention": record["label"],
                **{name: record["names"][name] for name in ("backbone", "dataset", "protocol")},
                "done": found["image"].nunique(),
                "images": len(record["images"]),
                "MB": round(size / 1e6, 2),
            }
        )
    return pd.DataFrame(rows)


def export(root: Path, target: Path, keys: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Write chosen cells as two files that any tool can read: ``<target>.parquet``, one tidy row
    per (spec, image, true, predicted) as in `sclip_lab.results.load`, and ``<target>.json``, the
    cells' records and what the columns mean.

    Raises:
        LabError: nothing to export, or the files cannot be written.
    """
    if not target.name:
        raise LabError(f"{target}: give the export a name in it, as in {target / 'export'}")
    frame = load(root, keys, partial=True)
    chosen = [record["key"] for record in records(root, keys)]
    plain_frame = frame.astype(
        {name: str for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)}
    )
    plain_frame.attrs = {}
    table, about = (target.with_name(f"{target.name}.{end}") for end in ("parquet", "json"))
    atomic.write(table, lambda temporary: plain_frame.to_parquet(temporary, index=False))
    described = {
        "columns": {
            "spec": "first 12 digits of the cell's key",
            "image": "the photo's name",
            "true": "class id of the mask",
            "predicted": "class id of the prediction",
            "pixels": "how many; scores are sums of these",
        },
        "table": table.name,
        "table_digest": sealed.seal({}, table.read_bytes()),
        "cells": list(records(root, chosen)),
    }
    sealed.write_json(about, described)
    return table, about


def _finding(path: Path, read: Callable[[], bool]) -> Finding | None:
    try:
        is_sealed = read()
    except FileNotFoundError:  # gone since it was listed
        return None
    except sealed.Damaged as damaged:
        state = "orphan" if damaged.reason == _ORPHAN else "damaged"
        return Finding(path, state, damaged.reason)
    except LabError as error:
        return Finding(path, "damaged", str(error))
    return None if is_sealed else Finding(path, "unsealed", "written by an earlier version")


def _reader(root: Path, path: Path, inside: tuple[str, ...]) -> Callable[[], bool] | None:
    """What reads a file and says whether it is sealed; None for files that are not the store's."""
    if inside[0] == "specs" and len(inside) >= 3:
        key = inside[1]
        record = root / "specs" / key / "spec.json"
        if path == record:
            return lambda: cells.IDENTITY in cells.read(path) or sealed.read_json(path).sealed
        if not record.is_file():
            return lambda: _orphan(path)
        for kind in KINDS.values():
            if len(inside) == 3 and path in kind.files(path.parent):
                return lambda: chunks.read_one(path, kind, key).sealed
        if inside[2] == "panels" and path.suffix == ".npz":
            return lambda: panels.check_prediction(path, key, cells.read(record)["images"])
    if inside[0] == "images" and len(inside) == 3 and path.suffix == ".npz":
        return lambda: panels.check_photo(path, inside[1], _names(root))
    if inside[0] in ("text", "trunk") and path.suffix == ".safetensors":
        belongs = {"kind": inside[0], "key": path.stem}
        return lambda: sealed.read_tensors(path, belongs)[0].sealed
    return None


def _orphan(path: Path) -> bool:
    raise sealed.Damaged(path, _ORPHAN)


def _names(root: Path) -> list[str]:
    return list(dict.fromkeys(name for record in records(root) for name in record["images"]))


def _seal(root: Path, path: Path) -> bool:
    """Write a sound file of an earlier version again, with its seal."""
    inside = path.relative_to(root).parts
    if path.name == "spec.json":
        sealed.write_json(path, cells.read(path))
        return True
    for kind in KINDS.values():
        if inside[0] == "specs" and len(inside) == 3 and path in kind.files(path.parent):
            frame: Any = chunks.read_one(path, kind, inside[1]).content
            known = set(cells.read(path.parent / "spec.json")["images"])
            strangers = set(frame["image"]) - known
            if strangers:
                reason = f"has rows of image '{min(strangers)}', not in its spec.json"
                sealed.set_aside(root, sealed.Damaged(path, reason))
                return True
            chunks.write(path.parent, kind, inside[1], frame, sync=True)
            path.unlink(missing_ok=True)
            return True
    return False


def described(findings: Sequence[Finding], root: Path) -> str:
    """One line per finding, and how many of which state."""
    lines = [f"{f.state:>9}  {f.path.relative_to(root)}  ({f.reason})" for f in findings]
    counts = [f"{sum(f.state == state for f in findings)} {state}" for state in STATES]
    return "\n".join([*lines, ", ".join(counts)])
