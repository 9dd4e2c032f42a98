"""Which W&B runs were written, and with what: a finished sweep does not write its runs again.

A store remembers it in ``<root>/tracking/<run id>.json``. Without that folder all are written
again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest

FOLDER = "tracking"


@dataclass(frozen=True)
class Run:
    """One run, as it would be written now.

    Attributes:
        root: of the store that its numbers are in.
        id: W&B's, the same for the same cells.
        content: all that decides what the run holds and where it goes.
    """

    root: Path
    id: str
    content: Mapping[str, Any]

    def before(self) -> Path | None:
        """The directory of this run if it was written with this very content and is still
        there."""
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
            same = known["content"] == digest(self.content)
            directory = Path(known["directory"])
        except (OSError, ValueError, KeyError, TypeError):  # never written, or no record any more
            return None
        return directory if same and directory.is_dir() else None

    def remember(self, directory: Path) -> None:
        """It has been written. A store that cannot be written forgets it, and the run is written
        again the next time."""
        told = {"content": digest(self.content), "directory": str(directory.absolute())}
        with contextlib.suppress(LabError):
            files.write_text(self._file, json.dumps(told, indent=1))

    @property
    def _file(self) -> Path:
        return self.root / FOLDER / f"{self.id}.json"


def stamps(root: Path, key: str) -> list[tuple[str, int, int]]:
    """Name, size and time of what a cell keeps beside its counts (pictures, diagnostics), given
    its key or the beginning of it: equal as long as nobody writes there."""
    kept = ("panels/*.npz", "diagnostics-*.parquet")
    files = sorted(file for part in kept for file in root.glob(f"specs/{key}*/{part}"))
    return [(file.name, (at := file.stat()).st_size, at.st_mtime_ns) for file in files]
