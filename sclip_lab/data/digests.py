"""sha256 of files, remembered by (path, size, modification time)."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import bounded_file, regular_file

CACHE_VARIABLE = "SCLIP_LAB_CACHE"
# A file changed twice within one tick of the clock keeps its modification time, so what was
# written just before it was hashed is not remembered.
SETTLED_NS = 2_000_000_000
BELONGS = {"kind": "file digests"}


def cache_file() -> Path:
    """Where digests are remembered: ``$SCLIP_LAB_CACHE``, by default ~/.cache/sclip_lab."""
    folder = os.environ.get(CACHE_VARIABLE) or os.path.join("~", ".cache", "sclip_lab")
    return Path(os.path.expanduser(folder)) / "file_digests.json"


def sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, as hex.

    Raises:
        LabError: it is no regular file, or cannot be read.
    """
    regular_file(path, "file")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error


def file_digests(paths: Sequence[Path], title: str = "hashing") -> list[str]:
    """sha256 of each photo or mask, in order; only files that are new or changed are read.

    A cache that cannot be read or written is passed over: then every file is read.

    Raises:
        LabError: one is no regular file, cannot be read, or is larger than any that is read.
    """
    cache = _load()
    found = []
    changed = False
    for path in tqdm(paths, desc=title, unit="file", delay=2, leave=False):
        try:
            path = path.resolve()
            stat = path.stat()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise LabError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = cache.get(str(path))
        if known is None or known[:2] != stamp:
            bounded_file(path, "file")
            known = [*stamp, sha256(path)]
            if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
                cache[str(path)] = known
                changed = True
        found.append(str(known[2]))
    if changed:
        _save(cache)
    return found


def _load() -> dict[str, list]:
    try:
        return dict(files.read_json(cache_file(), BELONGS)["files"])
    except (OSError, LabError):
        return {}


def _save(cache: dict[str, list]) -> None:
    with suppress(LabError):
        files.write_json(cache_file(), {"files": cache}, BELONGS)
