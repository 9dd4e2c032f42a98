"""sha256 of files, remembered as long as nothing about a file has changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.data.decode import bounded_file, missing_reason, regular_file

CACHE_VARIABLE = "SCLIP_LAB_CACHE"
# A file changed twice within one tick of the clock keeps its times, so what was written just
# before it was hashed is not remembered.
SETTLED_NS = 2_000_000_000
BELONGS = {"kind": "file digests"}

Proof = tuple[int, int, int, int]


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


def file_digests(paths: Sequence[Path], title: str = "hashing", bounded: bool = True) -> list[str]:
    """sha256 of each file, in order; only files that are new or changed are read.

    Args:
        paths: the files.
        title: of the progress bar.
        bounded: refuse files that are larger than any photo or mask that is read.

    A cache that cannot be read or written is passed over: then every file is read.

    Raises:
        LabError: one is no regular file, cannot be read, or is larger than any that is read.
    """
    cache = _load()
    digests = []
    changed = False
    for path in Bar(paths, desc=title, unit="file", delay=1, leave=False):
        place = os.path.abspath(path)
        stamp = proof(place)
        entry = cache.get(place)
        if entry is None or tuple(entry[:-1]) != stamp:
            if bounded:
                bounded_file(place, "file")
            entry = [*stamp, sha256(place)]
            # Modification times can be set back, the time of the change cannot.
            if time.time_ns() - stamp[2] > SETTLED_NS and proof(place) == stamp:
                cache[place] = entry
                changed = True
        digests.append(str(entry[-1]))
    if changed:
        _save(cache)
    return digests


def proof(path: str | Path) -> Proof:
    """What differs once a file is written to: size, times of modification and change, and inode.

    Raises:
        LabError: there is no such file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise LabError(f"{path}: {missing_reason(path)}") from error
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def read_hashed(path: str | Path, digest: str | None, what: str) -> bytes:
    """A photo's or mask's bytes, which must be those that were hashed.

    Args:
        path: the file.
        digest: its sha256 as the data set's key has it; None where there is no key yet.
        what: "photo" or "mask", for errors.

    Raises:
        LabError: it cannot be read, is empty or too large, or has changed since it was hashed.
    """
    if bounded_file(path, what) == 0:
        raise LabError(f"{what} {path}: the file is empty (0 bytes); fetch it again")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise LabError(f"{what} {path}: {error.strerror}") from error
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise LabError(
            f"{what} {path}: the file has changed since it was hashed, so its number would stand "
            "under the wrong key; leave the data alone and start again"
        )
    return content


def _load() -> dict[str, list]:
    try:
        return dict(files.read_json(cache_file(), BELONGS)["files"])
    except (OSError, LabError):
        return {}


def _save(cache: dict[str, list]) -> None:
    with suppress(LabError):
        files.write_json(cache_file(), {"files": cache}, BELONGS)
