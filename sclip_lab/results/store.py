"""The content-addressed store: finished cells are never computed again, interrupted ones go on.

    <root>/specs/<key>/spec.json                what the cell is
    <root>/specs/<key>/rows-*.parquet           image, true, predicted, pixels
    <root>/specs/<key>/diagnostics-*.parquet    image, measure, value
    <root>/text/<digest>.safetensors            text embeddings

Every file is written whole or not at all and never changed afterwards, so that readers, other
writers and a killed process cannot see half of one. Two writers that finish the same image write
the same rows into different files; `sclip_lab.results.loading` keeps one.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from sclip_lab import atomic
from sclip_lab.errors import LabError

KINDS = {
    "rows": {"image": "str", "true": "int16", "predicted": "int16", "pixels": "int64"},
    "diagnostics": {"image": "str", "measure": "str", "value": "float64"},
}


class Cell(Protocol):
    """What the store has to know of a spec."""

    @property
    def key(self) -> str:
        """sha256 hex of everything that can change the numbers."""

    def record(self) -> dict[str, Any]:
        """What spec.json holds."""


class Store:
    """Results of specs below one folder.

    Args:
        root: created if it does not exist.

    Raises:
        LabError: the folder cannot be made or written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        probe = self.root / f".writable-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        atomic.write_text(probe, "")
        probe.unlink(missing_ok=True)

    def directory(self, spec: Cell) -> Path:
        return self.root / "specs" / spec.key

    @property
    def text_cache(self) -> Path:
        return self.root / "text"

    def open(self, spec: Cell) -> None:
        """Write down what the cell is, once: tables are in the order in which cells were opened,
        which several processes that open the same cells must not shuffle."""
        path = self.directory(spec) / "spec.json"
        if not path.is_file():
            atomic.write_text(path, json.dumps(spec.record(), indent=1), first=True)

    def done(self, spec: Cell, kind: str = "rows") -> set[str]:
        """Names of the images that are finished.

        Raises:
            LabError: a file that cannot be read.
        """
        for _ in range(3):
            names: set[str] = set()
            try:
                for path in self._files(spec, kind):
                    names.update(pd.read_parquet(path, columns=["image"])["image"].unique())
                return names
            except FileNotFoundError:  # another process has just joined the files
                continue
            except (OSError, ValueError, KeyError) as error:
                raise LabError(
                    f"{path} cannot be read ({error}); delete it and run again"
                ) from error
        raise LabError(f"{self.directory(spec)} changes while it is read; try again")

    def append(self, spec: Cell, frames: Sequence[Mapping[str, Any]], kind: str = "rows") -> None:
        """Add finished images in one atomic write.

        Args:
            spec: the cell.
            frames: one mapping of equally long columns per image, as in ``KINDS``.
            kind: which of ``KINDS``.
        """
        if not frames:
            return
        columns = KINDS[kind]
        frame = pd.concat([pd.DataFrame(f, columns=list(columns)) for f in frames])
        frame = frame.astype({k: v for k, v in columns.items() if v != "str"})
        name = f"{kind}-{os.getpid()}-{uuid.uuid4().hex[:12]}.parquet"
        atomic.write(
            self.directory(spec) / name,
            lambda temporary: frame.to_parquet(temporary, index=False),
        )

    def compact(self, spec: Cell, kind: str = "rows") -> None:
        """Join a finished cell's files into one. A crash in between only leaves duplicates."""
        files = self._files(spec, kind)
        if len(files) < 2:
            return
        keys = ["image"] if kind == "rows" else ["image", "measure"]
        try:
            parts = [pd.read_parquet(path).assign(part=i) for i, path in enumerate(files)]
        except FileNotFoundError:  # another process is joining them
            return
        joined = pd.concat(parts, ignore_index=True)
        first = joined.groupby(keys)["part"].transform("min")
        joined = joined[joined["part"] == first].drop(columns="part")
        name = f"{kind}-all-{uuid.uuid4().hex[:12]}.parquet"
        atomic.write(
            self.directory(spec) / name,
            lambda temporary: joined.to_parquet(temporary, index=False),
        )
        for path in files:
            path.unlink(missing_ok=True)

    def diagnostics(self, spec: Cell) -> pd.DataFrame:
        """All measured diagnostics of a cell: image, measure, value."""
        frames = [pd.read_parquet(path) for path in self._files(spec, "diagnostics")]
        if not frames:
            return pd.DataFrame(columns=list(KINDS["diagnostics"]))
        return pd.concat(frames, ignore_index=True).drop_duplicates(["image", "measure"])

    def _files(self, spec: Cell, kind: str) -> list[Path]:
        return sorted(self.directory(spec).glob(f"{kind}-*.parquet"))
