"""Reads a store into DataFrames: see `sclip_lab.results`."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclip_lab.core import files
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import check
from sclip_lab.results.store import machines, spec_files
from sclip_lab.results.store.spec_files import COUNTS, MEASURES, SKIPPED, Kind
from sclip_lab.results.table.scores import NAMES

SHORT = 12  # digits of a key that tables show
EXPORT = {"kind": "export"}  # what the seal of an export's json file says that it is

Rows = tuple[dict[str, Any], pd.DataFrame]  # a spec's record, and rows of one kind


def records(path: str | Path, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The spec.json of every spec in a store, oldest first; or of the specs ``keys``.

    Args:
        path: the store's root.
        keys: only these, each a key or the beginning of one, in this order; all that can be read
            if None, and one warning names those that cannot.

    Raises:
        LabError: if there is no store, nothing in it can be read, a key matches no spec or
            several, or a spec that was asked for cannot be read.
    """
    check("path", path, str | Path)
    paths = {file.parent.name: file for file in sorted(Path(path).glob("specs/*/spec.json"))}
    if not paths:
        raise LabError(f"no results in {path}: expected {Path(path) / 'specs'}/<key>/spec.json")
    if keys is not None:
        paths = {key: paths[key] for key in _match_keys(keys, list(paths))}
    loaded, damaged = [], []
    for file in paths.values():
        try:
            loaded.append(spec_files.read_record(file))
        except FileNotFoundError:
            continue
        except LabError as error:
            if keys is not None:
                raise
            damaged.append(str(error))
    if damaged and not loaded:
        raise LabError(f"no results in {path}: {damaged[0]}")
    _warn_of_damage(path, damaged)
    if keys is not None:
        return loaded
    return sorted(loaded, key=lambda record: (record["created"], record["key"]))


class Shared(dict[str, Any]):
    """An entry of a frame's ``attrs`` that all copies of the frame share: pandas copies ``attrs``
    deeply at every step, which takes minutes for the configurations of two hundred cells."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


def load(
    path: str | Path,
    keys: Sequence[str] | None = None,
    *,
    partial: bool = False,
    names: Mapping[str, Mapping[str, str]] | None = None,
) -> pd.DataFrame:
    """Read a store, or what ``sclip-lab store export`` made of one.

    Args:
        path: the store's root, or the export's parquet or json file.
        keys: only these specs, each a key or the beginning of one; all if None. A damaged file
            of one of them is an error; without keys a warning names it, and its images are missing.
        partial: also specs of which some images are missing. Without it they are left out, and
            one warning names them.
        names: key, or the beginning of one -> columns attention, backbone, dataset, protocol, as a
            sweep calls the cell. Without it a cell has the names with the shortest of its labels:
            vanilla rather than sharpened(temperature=1.0).

    Returns:
        One row per (spec, image, true, predicted), in the order of ``keys``, else of the specs'
        creation, and of each spec's images. Columns: spec (the key's first 12 digits), attention
        (its label), backbone, dataset, protocol, image [categorical]; true, predicted [int16];
        pixels [int64]; and one column, such as "attention.temperature", per config value that
        differs between the specs loaded.
        ``attrs["class_names"]`` is {dataset: [names]}, ``attrs["classes"]`` the same by spec (a
        data set may be known by other names), ``attrs["configs"]`` {spec: flat config},
        ``attrs["of"]`` {spec: number of its data set's images}, ``attrs["processors"]``
        {spec: instruction set or GPU}, ``attrs["also"]`` {spec: its other names, in words}, and
        ``attrs["skipped"]`` {spec: {image: why}} of images that on_error=skip has left out.
        ``attrs["oracles"]`` lists the specs that read ground truth; their labels begin with
        "oracle", and they are in no ranking.
    """
    check("path", path, str | Path)
    specs, frames, unfinished = [], [], []
    if Path(path).is_file():
        counted, damaged = _exported(Path(path), keys), list[str]()
    else:
        counted, damaged = _all_rows(path, keys, COUNTS)
    for record, rows in counted:
        _rename(record, names or {})
        if rows["image"].nunique() < len(record["images"]):
            unfinished.append(f"{record['label']} ({record['key'][:SHORT]})")
            if not partial or rows.empty:
                continue
        specs.append(record)
        frames.append(rows)
    _warn_of_damage(path, damaged)
    if unfinished and not partial:
        warnings.warn(
            f"left out of {path}, unfinished: {machines.some(unfinished)}; run them to the end "
            "(see sclip-lab store sweeps), or load(..., partial=True)",
            stacklevel=2,
        )
    if not specs:
        why = damaged + [f"unfinished: {machines.some(unfinished)}"] * bool(unfinished)
        raise LabError(f"no finished results in {path}; {'; '.join(why)}")
    classes = _class_names(specs)
    df = _tidy(specs, frames)
    df.attrs["class_names"] = Shared(classes)
    df.attrs["classes"] = Shared({r["key"][:SHORT]: list(r["class_names"]) for r in specs})
    df.attrs["also"] = {r["key"][:SHORT]: also for r in specs if (also := other_names(r))}
    df.attrs["configs"] = Shared({r["key"][:SHORT]: _flatten(r["config"]) for r in specs})
    df.attrs["of"] = {r["key"][:SHORT]: len(r["images"]) for r in specs}
    df.attrs["processors"] = {r["key"][:SHORT]: machines.processor(r) for r in specs}
    df.attrs["oracles"] = [r["key"][:SHORT] for r in specs if "labels" in r.get("identity", {})]
    df.attrs["skipped"] = {}
    for record, rows in zip(specs, frames, strict=True):
        folder = Path(path) / "specs" / record["key"]
        left_out, _ = spec_files.read(folder, SKIPPED)
        if len(left_out):
            reasons = spec_files.skipped(left_out, set(rows["image"]))
            df.attrs["skipped"] |= {record["key"][:SHORT]: reasons} if reasons else {}
    return df


def diagnostics(
    path: str | Path, keys: Sequence[str] | None = None, *, layers: bool = False
) -> pd.DataFrame:
    """Read diagnostics: columns as in `load`, with measure and value in place of the counts.

    Args:
        path, keys: as in `load`.
        layers: read the numbers of single layers and heads instead, with the columns layer (0-based
            block) and head (-1: the number of the layer as a whole).

    Returns:
        Specs without diagnostics are left out; without any, the DataFrame is empty. Images on
        which a measure is not defined are left out too; ``attrs["undefined"]`` counts them,
        {measure: number}. Values that different code of a measure computed cannot be compared:
        where there are such, only those by the code of today are kept, with a warning.
    """
    measured, damaged = _all_rows(path, keys, MEASURES)
    _warn_of_damage(path, damaged)
    dropped = ["code"] if layers else ["code", "layer", "head"]
    specs, frames, undefined = [], [], pd.Series(dtype=int)
    for record, rows in _of_one_code(path, measured):
        rows = rows[(rows["layer"] >= 0) == layers].drop(columns=dropped)
        defined = rows["value"].notna()
        undefined = undefined.add(rows["measure"][~defined].value_counts(), fill_value=0)
        if defined.any():
            specs.append(record)
            frames.append(rows[defined])
    columns = [*NAMES, *(name for name in MEASURES.types if name not in dropped)]
    df = _tidy(specs, frames) if specs else pd.DataFrame(columns=columns)
    df.attrs["undefined"] = {str(name): int(count) for name, count in undefined.items()}
    return df


def _of_one_code(path: str | Path, measured: list[Rows]) -> list[Rows]:
    """Drop rows by older code of a measure where cells differ in its code, with a warning."""
    if not measured:
        return measured
    codes = pd.concat([rows[["measure", "code"]] for _, rows in measured]).drop_duplicates()
    mixed = codes["measure"][codes["measure"].duplicated()].unique()
    if not len(mixed):
        return measured
    warnings.warn(
        f"left out of {path}, measured before the code of the measure changed: some values of "
        f"{', '.join(mixed)}; evaluate their cells with diagnostics again",
        stacklevel=3,
    )
    return [
        (record, rows[~rows["measure"].isin(mixed) | spec_files.by_code_of_today(rows)])
        for record, rows in measured
    ]


def _rename(record: dict[str, Any], of_keys: Mapping[str, Mapping[str, str]]) -> None:
    """Set the names of a cell, such as its label, to those of the key, or of the beginning of one,
    that is its own; the names that it had before join its other names."""
    check("names", of_keys, Mapping[str, Mapping[str, Any]])
    names = next((of_keys[key] for key in of_keys if key and record["key"].startswith(key)), None)
    if names:
        if strange := [name for name in names if name not in NAMES[1:]]:
            raise unknown("column", strange[0], NAMES[1:])
        every = [record["names"], *record.get("also", [])]
        record["names"] = {**record["names"], **names}
        record["label"] = record["names"]["attention"]
        record["also"] = [other for other in every if other != record["names"]]


def other_names(record: Mapping[str, Any]) -> list[str]:
    """The other names of a cell in words. Each says only what differs from the names that are
    shown, such as "protocol naclip"."""
    return [
        " · ".join(
            str(other[name]) if name == "attention" else f"{name} {other[name]}"
            for name in NAMES[1:]
            if other.get(name) != record["names"].get(name)
        )
        for other in record.get("also", [])
    ]


def _tidy(specs: list[dict[str, Any]], frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack the specs' frames; add the specs' names as first, their parameters as last columns."""
    images = pd.Index([image for record in specs for image in record["images"]]).unique()
    rows = pd.concat(frames, ignore_index=True)
    rows["image"] = pd.Categorical(rows["image"], images)
    table = spec_table(specs)
    for name in NAMES:
        table[name] = pd.Categorical(table[name], table[name].unique())
    repeats = np.repeat(np.arange(len(specs)), [len(frame) for frame in frames])
    columns = table.iloc[repeats].reset_index(drop=True)
    return pd.concat([columns[NAMES], rows, columns.drop(columns=NAMES)], axis=1)


def specs(path: str | Path) -> pd.DataFrame:
    """One row per spec of a store: names, key, created, images, done (images so far), config."""
    counted, damaged = _all_rows(path, None, COUNTS)
    _warn_of_damage(path, damaged)
    table = spec_table([record for record, _ in counted], only_differing=False)
    facts = pd.DataFrame(
        {
            "key": [record["key"] for record, _ in counted],
            "created": [record["created"] for record, _ in counted],
            "images": [len(record["images"]) for record, _ in counted],
            "done": [rows["image"].nunique() for _, rows in counted],
        }
    )
    return pd.concat([table[NAMES], facts, table.drop(columns=NAMES)], axis=1)


def _match_keys(requested: Sequence[str], keys: list[str]) -> list[str]:
    """The one of ``keys`` that each of the requested begins; one key may be a text by itself."""
    return [
        _match_key(key, keys) for key in ([requested] if isinstance(requested, str) else requested)
    ]


def _match_key(key: str, keys: list[str]) -> str:
    matches = [name for name in keys if key and name.startswith(key)]
    if len(matches) > 1 and key not in matches:
        raise LabError(f"spec key '{key}' begins {len(matches)} keys: {', '.join(matches)}")
    if not matches:
        raise unknown("spec key", key, keys)
    return key if key in matches else matches[0]


def _all_rows(
    path: str | Path, keys: Sequence[str] | None, kind: Kind
) -> tuple[list[Rows], list[str]]:
    """Rows of every spec, and errors of damaged files; with ``keys`` the first error is raised."""
    rows, damaged = list[Rows](), list[str]()
    for record in records(path, keys):
        frame, errors = spec_files.read(Path(path) / "specs" / record["key"], kind)
        if errors and keys is not None:
            raise errors[0]
        rows.append((record, _in_order(frame, record, kind)))
        damaged += map(str, errors)
    return rows, damaged


def _exported(path: Path, keys: Sequence[str] | None) -> list[Rows]:
    """Rows of every spec of an export; its json file holds the records and the table's digest."""
    about, table = path.with_suffix(".json"), path.with_suffix(".parquet")
    try:
        described = files.read_json(about, EXPORT)
        content = table.read_bytes()
    except FileNotFoundError as error:
        raise LabError(f"an export has two files: {error.filename} is missing") from None
    if described["table_digest"] != hashlib.sha256(content).hexdigest():
        raise files.Damaged(table, f"is not the table that {about.name} belongs to")
    rows = pd.read_parquet(io.BytesIO(content))
    by_key = {record["key"]: record for record in described["cells"]}
    chosen = by_key if keys is None else _match_keys(keys, list(by_key))
    parts = [rows[rows["spec"] == key[:SHORT]].assign(file=0) for key in chosen]
    return [
        (by_key[key], _in_order(part, by_key[key], COUNTS))
        for key, part in zip(chosen, parts, strict=True)
    ]


def _in_order(rows: pd.DataFrame, record: dict[str, Any], kind: Kind) -> pd.DataFrame:
    """Sort rows by the order of the spec's images, and keep each image once."""
    place = {image: position for position, image in enumerate(record["images"])}
    rows = spec_files.each_once(rows.assign(position=rows["image"].map(place)), kind)
    rows = rows.sort_values(["position", *kind.order], ignore_index=True)
    return rows[list(kind.types)].astype(kind.types)


def _warn_of_damage(path: str | Path, damaged: Sequence[str]) -> None:
    if damaged:
        warnings.warn(
            f"left out of {path}, damaged: {'; '.join(damaged)}; evaluate again what you need of "
            "it (this sets damaged files aside), or see sclip-lab store repair",
            stacklevel=3,
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def spec_table(specs: list[dict[str, Any]], only_differing: bool = True) -> pd.DataFrame:
    """One row per spec: names, then config values (all, or those that differ between the specs),
    numbers as numbers and the rest as text."""
    configs = [_flatten(record["config"]) for record in specs]
    columns: dict[str, Any] = {
        "spec": [record["key"][:SHORT] for record in specs],
        "attention": [record["label"] for record in specs],
    }
    for name in NAMES[2:]:
        columns[name] = [record["names"][name] for record in specs]
    for name in dict.fromkeys(name for config in configs for name in config):
        if name in ("backbone.name", "dataset.name"):  # these have columns already
            continue
        values = [config.get(name) for config in configs]
        if only_differing and all(value == values[0] for value in values):
            continue
        present = [value for value in values if value is not None]
        if present and all(type(value) in (int, float) for value in present):
            columns[name] = pd.array([np.nan if v is None else v for v in values], dtype=float)
        else:
            texts = [
                None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values
            ]
            columns[name] = pd.Categorical(texts)
    return pd.DataFrame(columns)


def _class_names(specs: list[dict[str, Any]]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for record in specs:
        first = names.setdefault(record["names"]["dataset"], list(record["class_names"]))
        if len(first) != len(record["class_names"]):
            raise LabError(
                f"data set '{record['names']['dataset']}' has {len(first)} classes in one spec and "
                f"{len(record['class_names'])} in {record['key'][:SHORT]}; load them apart "
                "(keys=, or sclip-lab report --sweep)"
            )
    return names
