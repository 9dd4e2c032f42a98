"""Write files completely or not at all, with a seal that is checked when they are read.

A file is written under a temporary name in its folder and then renamed. The seal is a BLAKE2b
digest of the file's bytes and of what the file belongs to: its kind, and its cell, photo or
network. It detects a changed bit, a missing row, and an intact file in the wrong place. It is no
signature: anyone who changes a file on purpose can seal it again.

The seal is stored where the format allows a short text, so that other tools can read the file: in a
key of a JSON object, in the metadata of parquet and safetensors, in the comment of an npz archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import stat
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclip_lab.core.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

log = logging.getLogger(__name__)
# No process takes longer to write a file, so the writer of an older temporary file has died.
LOST_SECONDS = 3600
DAMAGED = "damaged"  # the folder of a store to which damaged files are moved
LARGEST = 8 << 30  # bytes; this library writes no larger file, so none is read into memory
SEAL = "seal"  # the name of the seal's place in every format
_MARK = b"sclip-lab-seal:"
_DIGITS = 64
_BLANK = (_MARK + b"0" * _DIGITS).decode()


class Damaged(LabError):
    """A file that is not as it was written, or is in the wrong place.

    Attributes:
        path: the file.
        reason: what is wrong, to follow the path in a sentence.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


def write(
    path: Path, save: Callable[[Path], object], *, first: bool = False, sync: bool = False
) -> None:
    """Let ``save`` write a temporary file in the folder of ``path``, then rename it to ``path``.

    Args:
        save: writes to the path that it is called with.
        first: keep a file that is already there, so that the first of several writers wins.
        sync: return when the file and its name are on the disk and survive a power cut.

    Raises:
        LabError: the disk is full or the folder cannot be written. No temporary file remains.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:16]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        if sync:
            sync_file(temporary)
        if first:
            try:
                os.link(temporary, path)  # unlike os.replace, fails where there is a file
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links: the last writer's stays
                os.replace(temporary, path)
            temporary.unlink(missing_ok=True)
        else:
            os.replace(temporary, path)
        if sync:
            sync_file(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise LabError(
            f"cannot write {path}: {error.strerror or error}; "
            f"free space or name another folder than {path.parent}"
        ) from error


def write_bytes(path: Path, content: bytes, *, first: bool = False, sync: bool = False) -> None:
    """`write` bytes."""
    write(path, lambda temporary: temporary.write_bytes(content), first=first, sync=sync)


def write_text(path: Path, text: str) -> None:
    """`write` a text in UTF-8."""
    write_bytes(path, text.encode())


def probe(folder: Path) -> None:
    """Check that a folder exists or can be made, and that files can be written into it."""
    path = folder / f".{uuid.uuid4().hex[:16]}.tmp"
    write_bytes(path, b"")
    path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    with contextlib.suppress(OSError):  # some network file systems, and Windows for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of a temporary file of `write`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def is_lost(path: Path) -> bool:
    """Whether a temporary file is so old that its process must have died."""
    try:
        return time.time() - path.stat().st_mtime > LOST_SECONDS
    except OSError:
        return False


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that died from one folder."""
    with contextlib.suppress(OSError):
        for path in list(folder.glob(".*.tmp")):
            if is_lost(path):
                path.unlink(missing_ok=True)


def seal(path: Path, content: bytes, belongs: Mapping[str, str]) -> bytes:
    """Replace the blank seal in the bytes of the file ``path`` by the seal.

    ``belongs`` says what the file belongs to; `read` needs the same mapping.

    Raises:
        LabError: a text in the file looks like a seal.
    """
    if content.count(_MARK) != 1:
        raise LabError(f"{path}: no name may contain '{_MARK.decode()}'")
    start = content.index(_MARK) + len(_MARK)
    return content[:start] + _digest(content, start, belongs) + content[start + _DIGITS :]


def read(path: Path, belongs: Mapping[str, str], *, foreign: bool = False) -> bytes:
    """The bytes of a sealed file; with ``foreign`` also of another program's file without a seal.

    Raises:
        Damaged: the file has no seal or a wrong one; or it is a pipe, a device or larger than
            `LARGEST` bytes, and is not read.
        FileNotFoundError: there is no such file.
        LabError: the file cannot be opened.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise Damaged(path, "is a pipe or device, not a file")
        if status.st_size > LARGEST:
            raise Damaged(path, f"has {status.st_size} bytes; no file of ours exceeds {LARGEST}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
    start = content.find(_MARK) + len(_MARK)
    if start < len(_MARK):
        if foreign:
            return content
        raise Damaged(path, "has no seal: it was cut, changed or written by another program")
    if content[start : start + _DIGITS] != _digest(content, start, belongs):
        raise Damaged(path, "is not what was written here: its seal is not that of its content")
    return content


def _digest(content: bytes, start: int, belongs: Mapping[str, str]) -> bytes:
    """Digest in hex of ``content`` without the seal that begins at ``start``."""
    state = hashlib.blake2b(json.dumps(dict(belongs), sort_keys=True).encode(), digest_size=32)
    view = memoryview(content)
    state.update(view[:start])
    state.update(view[start + _DIGITS :])
    return state.hexdigest().encode()


def write_json(
    path: Path, record: Mapping[str, Any], belongs: Mapping[str, str], *, first: bool = False
) -> None:
    """Write a sealed JSON object. See `write` and `seal`."""
    content = json.dumps({**record, SEAL: _BLANK}, indent=1).encode()
    write_bytes(path, seal(path, content, belongs), first=first)


def read_json(path: Path, belongs: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object of `write_json`. Raises the errors of `read`."""
    record: dict[str, Any] = json.loads(read(path, belongs))
    del record[SEAL]
    return record


def write_table(
    folder: Path, name: str, frame: pd.DataFrame, belongs: Mapping[str, str], *, sync: bool = False
) -> Path:
    """Write a sealed ``<folder>/<name>-<digest of the content>.parquet``, without the index.

    See `write` and `seal`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), SEAL: _BLANK})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    content = seal(folder, sink.getvalue(), belongs)
    path = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:40]}.parquet"
    write_bytes(path, content, sync=sync)
    return path


def read_table(path: Path, belongs: Mapping[str, str], columns: list[str]) -> pd.DataFrame:
    """Columns of a table of `write_table`. Raises the errors of `read`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.BufferReader(read(path, belongs))
    table: pd.DataFrame = pq.read_table(content, columns=columns).to_pandas()
    return table


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    belongs: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a sealed safetensors file with ``notes`` as metadata. See `write` and `seal`."""
    from safetensors.torch import save

    content = save(dict(tensors), {**(notes or {}), SEAL: _BLANK})
    write_bytes(path, seal(path, content, belongs))


def read_tensors(
    path: Path, belongs: Mapping[str, str], *, foreign: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and the file's other metadata. Raises the errors of `read`."""
    from safetensors.torch import load

    content = read(path, belongs, foreign=foreign)
    try:
        tensors = load(content)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        notes = json.loads(header).get("__metadata__", {})
    except Exception as error:  # a foreign file may be anything
        if not foreign:
            raise
        raise Damaged(path, f"is not a safetensors file: {error}") from None
    if not notes.get(SEAL, _BLANK).startswith(_MARK.decode()):  # a foreign file has no such key
        raise Damaged(path, "is not what was written here: its seal is damaged")
    return tensors, {key: value for key, value in notes.items() if key != SEAL}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], belongs: Mapping[str, str]) -> None:
    """Write a sealed and compressed npz file. See `write` and `seal`."""
    import numpy as np

    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(sink, "a") as archive:
        archive.comment = _BLANK.encode()
    write_bytes(path, seal(path, sink.getvalue(), belongs))


def read_arrays(path: Path, belongs: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name. Raises the errors of `read`."""
    import numpy as np

    with np.load(io.BytesIO(read(path, belongs)), allow_pickle=False) as arrays:
        return dict(arrays)


def set_aside(root: Path, damaged: Damaged) -> None:
    """Move a damaged file to a folder below ``<root>/damaged`` and log a warning.

    The file is never deleted. In a read-only store it stays in its place.
    """
    path = damaged.path
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    target = root / DAMAGED / inside.with_name(f"{inside.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    except FileNotFoundError:  # another process has moved it
        return
    except OSError as error:
        log.warning("%s; it is damaged and stays there: %s", damaged, error.strerror)
        return
    log.warning("%s; it is damaged, and set aside as %s", damaged, target)
