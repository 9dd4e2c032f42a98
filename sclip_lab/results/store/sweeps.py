"""The log of a store: which sweep asked for which cells, under which names, and when.

    <root>/sweeps/<id>.json     name, command, first, last, cells: key -> names

A sweep is known by its name and its cells' names, so the same command typed again is the same
sweep with a later ``last``.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sclip_lab.core import files
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.identity import digest

log = logging.getLogger(__name__)
FOLDER = "sweeps"
LAST = "last"
DIGITS = 8
Names = Mapping[str, str]  # of a cell: attention (its label), backbone, dataset, protocol


def note(root: Path, name: str, command: str, cells: Mapping[str, Names]) -> str:
    """Write down that a sweep asks for cells.

    Args:
        name: of the sweep: its preset, or the command's own name.
        command: what was typed.
        cells: names by key.

    Returns:
        the sweep's id. A store that cannot be written keeps no log; that is no error.
    """
    key = digest({"name": name, "cells": cells})[:DIGITS]
    path, now = root / FOLDER / f"{key}.json", datetime.datetime.now(datetime.UTC).isoformat()
    try:
        first = files.read_json(path, _belongs(key))["first"]
    except (LabError, FileNotFoundError, KeyError):
        first = now
    content = {"name": name, "command": command, "first": first, "last": now}
    try:
        files.write_json(path, {**content, "cells": {k: dict(n) for k, n in cells.items()}},
                         _belongs(key))  # fmt: skip
    except LabError as error:
        log.debug("the sweep is not noted: %s", error)
    return key


def read(root: Path) -> dict[str, dict[str, Any]]:
    """All sweeps of a store by id, the one that was typed last at the end. A damaged file is passed
    over: it changes no number."""
    sweeps = {}
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            sweeps[path.stem] = files.read_json(path, _belongs(path.stem))
        except (LabError, FileNotFoundError):
            continue
    return dict(sorted(sweeps.items(), key=lambda item: str(item[1]["last"])))


def find(root: Path, name: str) -> dict[str, Any]:
    """One sweep: by its name (the last one of that name), by the beginning of its id, or ``last``.

    Raises:
        LabError: there is none (did you mean).
    """
    sweeps = read(root)
    if not sweeps:
        raise LabError(f"{root} has no log of sweeps")
    if name == LAST:
        return list(sweeps.values())[-1]
    for matches in (
        [sweep for sweep in sweeps.values() if sweep["name"] == name],
        [sweep for key, sweep in sweeps.items() if name and key.startswith(name)],
    ):
        if matches:
            return matches[-1]
    names = dict.fromkeys([*(str(sweep["name"]) for sweep in sweeps.values()), *sweeps, LAST])
    raise unknown("sweep", name, names)


def table(root: Path, finished: Mapping[str, bool]) -> pd.DataFrame:
    """One row per sweep: id, name, first, last, cells, finished (of them), command.

    Args:
        finished: whether a cell has all its images, by key.
    """
    rows = [
        {
            "id": key,
            "name": sweep["name"],
            "first": str(sweep["first"])[:16].replace("T", " "),
            "last": str(sweep["last"])[:16].replace("T", " "),
            "cells": len(sweep["cells"]),
            "finished": sum(finished.get(cell, False) for cell in sweep["cells"]),
            "command": sweep["command"],
        }
        for key, sweep in read(root).items()
    ]
    columns = ["id", "name", "first", "last", "cells", "finished", "command"]
    return pd.DataFrame(rows, columns=columns)


def _belongs(key: str) -> dict[str, str]:
    return {"kind": "sweep", "sweep": key}
