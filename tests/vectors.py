"""Where the official outputs are: arrays that tests compare with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"


def given() -> Path | None:
    """The folder that the environment variable SCLIP_LAB_PARITY names."""
    chosen = os.environ.get("SCLIP_LAB_PARITY")
    return Path(chosen) if chosen else None


def folders() -> list[Path]:
    """Folders that may hold vectors, the first one wins."""
    chosen = given()
    roots = [] if chosen is None else [chosen]
    return [*roots, SHARED / "parity", SHARED / "parity2026", HERE / "vectors"]


def find(file: str) -> Path:
    """A file of the parity vectors; skips the test, with the reason, where there is none."""
    for folder in folders():
        if (folder / file).is_file():
            return folder / file
    searched = ", ".join(str(folder) for folder in folders())
    pytest.skip(f"parity file {file} is in none of {searched}")


def load(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of ``<name>.npz`` by key; asking for one that was trimmed skips the test."""
    path = find(f"{name}.npz")
    kind = Trimmed if path.parent.resolve() == HERE / "vectors" else dict
    with np.load(path, allow_pickle=False) as arrays:
        return kind({key: arrays[key] for key in arrays.files})


class Trimmed(dict[str, np.ndarray]):
    """The arrays of a file in tests/vectors, which has not everything."""

    def __missing__(self, key: str) -> np.ndarray:
        pytest.skip(f"{key} is not in tests/vectors, only in the full set of vectors")
