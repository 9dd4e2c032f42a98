"""The spec.json of a cell: what it has to say, and whether it says it of this cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sclip_lab.core import sealed
from sclip_lab.core.canonical import digest
from sclip_lab.core.errors import LabError

# What every record has; and what says, in records since there are seals, that there must be one.
FIELDS = ("key", "names", "label", "config", "class_names", "images")
IDENTITY = "identity"


def read(path: Path) -> dict[str, Any]:
    """The record in a cell's spec.json.

    Raises:
        Damaged: no record, one without its seal, another cell's, or one whose key is not that of
            its identity.
        FileNotFoundError: there is none.
        LabError: it cannot be opened.
    """
    record, is_sealed = sealed.read_json(path)
    check(path, record, is_sealed)
    if record["key"] != path.parent.name:
        raise sealed.Damaged(path, f"belongs to cell {record['key'][:12]}")
    return {**record, "label": min([record["label"], *_labels(path.parent)], key=_shortest)}


def check(path: Path, record: dict[str, Any], is_sealed: bool) -> None:
    """Refuse what cannot be a cell's record.

    Args:
        path: of the file that holds it.
        is_sealed: whether that has a seal.

    Raises:
        Damaged: fields are missing or of another type, the seal is gone, or its key is not that
            of its identity.
    """
    missing = set(FIELDS) - set(record)
    if missing:
        raise sealed.Damaged(path, f"is no spec: it lacks {', '.join(sorted(missing))}")
    if IDENTITY in record:
        if not is_sealed:
            raise sealed.Damaged(path, "is not what was written: it has lost its seal")
        if digest(record[IDENTITY]) != record["key"]:
            raise sealed.Damaged(
                path, "is not what was written: its key is not that of its identity"
            )
    fault = _fault(record)  # a seal is no signature
    if fault:
        raise sealed.Damaged(path, f"is no spec: {fault}")


def add_label(folder: Path, label: str) -> None:
    """Keep one more label under which the cell in ``folder`` was asked for."""
    path = folder / f"label-{digest(label)[:12]}.json"
    if label not in _labels(folder):
        sealed.write_json(path, {"key": folder.name, "label": label}, first=True)


def _labels(folder: Path) -> list[str]:
    """Labels beside the record's own. A damaged one is passed over: it changes no number."""
    found = []
    for path in sorted(folder.glob("label-*.json")):
        try:
            record, is_sealed = sealed.read_json(path)
        except (LabError, FileNotFoundError):
            continue
        if is_sealed and record.get("key") == folder.name:
            found.append(str(record.get("label")))
    return found


def _shortest(label: str) -> tuple[int, str]:
    return len(label), label


def _fault(record: dict[str, Any]) -> str | None:
    """What keeps a record from being read as one."""
    texts, maps = ("key", "label"), ("names", "config")
    if not all(isinstance(record[name], str) for name in texts):
        return f"{' and '.join(texts)} must be text"
    if not all(isinstance(record[name], dict) for name in maps):
        return f"{' and '.join(maps)} must be mappings"
    parts = ("attention", "backbone", "dataset", "protocol")
    values = [record["config"].get(part) for part in parts]
    if not all(isinstance(value, dict) and value for value in values):
        return f"config must map {', '.join(parts)} to what they were made of"
    names = [record["names"].get(part) for part in parts]
    if not all(isinstance(name, str) for name in names):
        return "names must be those of attention, backbone, dataset and protocol"
    for name in ("class_names", "images"):
        listed = record[name]
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            return f"{name} must be a list of names"
    return None
