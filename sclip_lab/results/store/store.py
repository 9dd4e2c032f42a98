"""The content-addressed store: finished cells are never computed again, interrupted ones go on.

    <root>/specs/<key>/spec.json                what the cell is
    <root>/specs/<key>/rows-*.parquet           image, true, predicted, pixels
    <root>/specs/<key>/diagnostics-*.parquet    image, measure, code, layer, head, value
    <root>/specs/<key>/skipped-*.parquet        image, reason, at
    <root>/specs/<key>/names-*.json             other names that the cell was asked for under
    <root>/sweeps/<id>.json                     which sweep asked for which cells, and when
    <root>/text/<digest>.safetensors            text embeddings
    <root>/damaged/...                          what was found damaged, kept to be looked at

Every file is written whole or not at all and never changed afterwards, so that readers, other
writers and a killed process cannot see half of one; and it is sealed (`sclip_lab.core.files`), so
that a changed or misplaced one is found, set aside and computed again. Two writers that finish
the same image write the same rows into different files; readers keep one. docs/reliability.md
says what is promised when.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from sclip_lab.core import files
from sclip_lab.core.values import check
from sclip_lab.results.store import spec_files
from sclip_lab.results.store.spec_files import KINDS

log = logging.getLogger(__name__)


class StoredSpec(Protocol):
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
        LabError: the folder cannot be made or written. A store that holds cells may be read-only:
            its finished cells can be read, and missing ones cannot be computed.
    """

    def __init__(self, root: str | Path) -> None:
        check("store", root, str | Path)
        self.root = Path(root)
        # With two threads, file systems can sync several files at once.
        self._syncing = ThreadPoolExecutor(2, "store-sync")
        self._waiting: list[Future[None]] = []
        files.sweep(self.root)
        if not (self.root / "specs").is_dir():
            files.probe(self.root)

    def directory(self, spec: StoredSpec) -> Path:
        return self.root / "specs" / spec.key

    @property
    def text_cache(self) -> Path:
        return self.root / "text"

    def open(self, spec: StoredSpec) -> None:
        """Write spec.json unless it exists, else add the spec's names if they are new. A damaged
        spec.json is set aside and written again. Temporary files of dead processes are removed."""
        path = self.directory(spec) / "spec.json"
        for folder in (path.parent, path.parent / "pictures"):
            files.sweep(folder)
        try:
            written = spec_files.read_record(path)
        except FileNotFoundError:
            pass
        except files.Damaged as damaged:
            files.set_aside(self.root, damaged)
        else:
            record = spec.record()
            names = {**record["names"], "attention": record["label"]}
            if names not in (written["names"], *written["also"]):
                spec_files.add_names(path.parent, names)
            return
        spec_files.write_record(path, spec.record())

    def done(self, spec: StoredSpec, kind: str = "rows") -> set[str]:
        """Names of the images that are finished. Damaged files are set aside, so that their
        images are not among them.

        Raises:
            LabError: a file that cannot be opened.
        """
        return set(self._read(spec, kind)["image"].unique())

    def append(
        self, spec: StoredSpec, frames: Sequence[Mapping[str, Any]], kind: str = "rows"
    ) -> None:
        """Add finished images in one atomic write, which is synced to the disk in the background.

        Args:
            frames: one mapping of columns per image, as in ``KINDS``; a column may be one value
                for all rows of the image, and columns with a default may be left out.
            kind: which of ``KINDS``.
        """
        if not frames:
            return
        frame = spec_files.joined(frames, KINDS[kind])
        path = spec_files.write(self.directory(spec), KINDS[kind], frame)
        self._waiting = [future for future in self._waiting if not future.done()]
        self._waiting.append(self._syncing.submit(_sync, path))

    def compact(self, spec: StoredSpec, kind: str = "rows") -> None:
        """Join a finished cell's files into one. A crash in between only leaves duplicates, and
        no file is removed before the joined one is on the disk."""
        parts = KINDS[kind].files(self.directory(spec))
        if len(parts) < 2:
            return
        frame = spec_files.each_once(self._read(spec, kind), KINDS[kind])
        if frame.empty:
            return
        joined = spec_files.write(self.directory(spec), KINDS[kind], frame, sync=True)
        for path in parts:
            if path != joined:
                path.unlink(missing_ok=True)

    def diagnostics(self, spec: StoredSpec) -> pd.DataFrame:
        """Diagnostics of a cell that were measured by the code of today: image, measure, layer,
        head (-1 for none), value (NaN where the measure is not defined)."""
        values = self._read(spec, "diagnostics")
        values = values[spec_files.by_code_of_today(values)].drop(columns=["file", "code"])
        return values.drop_duplicates(["image", "measure", "layer", "head"], ignore_index=True)

    def skipped(self, spec: StoredSpec) -> dict[str, str]:
        """Images that were left out and have not been finished since, each with the last reason."""
        return spec_files.skipped(self._read(spec, "skipped"), self.done(spec))

    def _read(self, spec: StoredSpec, kind: str) -> pd.DataFrame:
        frame, damaged = spec_files.read(self.directory(spec), KINDS[kind])
        for error in damaged:
            files.set_aside(self.root, error)
        return frame


def _sync(path: Path) -> None:
    files.sync_file(path)
    files.sync_file(path.parent)
