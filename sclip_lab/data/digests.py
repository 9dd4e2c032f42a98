"""sha256 of files. A digest is remembered until its file changes."""

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
from sclip_lab.data.decode import bounded_file, read_bytes, regular_file

CACHE_VARIABLE = "SCLIP_LAB_CACHE"
# A file that is changed twice within one tick of the clock keeps its times. So the digest of a file
# that was written just before is not remembered.
SETTLED_NS = 2_000_000_000
BELONGS = {"kind": "file digests"}

Proof = tuple[int, int, int, int]


def cache_file() -> Path:
    """The file of digests, below ``$SCLIP_LAB_CACHE``, by default ~/.cache/sclip_lab."""
    folder = os.environ.get(CACHE_VARIABLE) or os.path.join("~", ".cache", "sclip_lab")
    return Path(os.path.expanduser(folder)) / "file_digests.json"


def sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, as hex; the path must be a regular file."""
    regular_file(path, "file")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error


def file_digests(paths: Sequence[Path], title: str = "hashing", bounded: bool = True) -> list[str]:
    """sha256 of each file, in order; only new and changed files are read.

    If the cache cannot be read or written, every file is read.

    Raises:
        LabError: a path is no regular file; or ``bounded`` is true, and a file is larger than any
            photo that is read.
    """
    try:
        cache = dict(files.read_json(cache_file(), BELONGS)["files"])
    except (OSError, LabError):
        cache = {}
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
        with suppress(LabError):
            files.write_json(cache_file(), {"files": cache}, BELONGS)
    return digests


def proof(path: str | Path) -> Proof:
    """A file's size, times of modification and change, and inode: they change with its bytes."""
    status = regular_file(path, "file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def read_hashed(path: str | Path, digest: str | None, what: str) -> bytes:
    """The bytes of a photo or mask. Their sha256 must be ``digest``; None accepts all bytes."""
    content = read_bytes(path, what)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise LabError(
            f"{what} {path}: the file has changed since it was hashed, so its number would stand "
            "under the wrong key; leave the data alone and start again"
        )
    return content
