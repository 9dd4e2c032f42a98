"""Files that carry a digest of what they hold and of what they belong to, checked on reading.

A seal is a BLAKE2b digest over the content and over ``belongs``: the kind of file and the cell,
image or network that it was made for. It finds a changed bit, a dropped row, and a sound file in
the wrong place. It is no signature: whoever rewrites a file on purpose can seal it again.

=========== ====================================================================================
json        key ``seal``, over the record without it
parquet     part of the file's name, over all bytes; ``belongs`` stands in the schema's metadata;
            pages have checksums of their own
safetensors metadata ``seal``, over the tensors and the other metadata
npz         the zip archive's comment, over all bytes before it
=========== ====================================================================================

Files of earlier versions have no seal. They are read, and their readers say so; ``sclip-lab store
repair`` seals those of a store that are sound.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import stat
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclip_lab.core import atomic
from sclip_lab.core.canonical import plain
from sclip_lab.core.errors import LabError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

log = logging.getLogger(__name__)
SEAL = "seal"
BELONGS = b"sclip_lab.belongs"
DAMAGED = "damaged"  # the folder of a store in which damaged files are set aside
LARGEST, LARGEST_TENSORS = 2 << 30, 8 << 30  # bytes of a file, packed and unpacked
MOST_ROWS = 1 << 27  # of a table; 164,000 photos with 100 pairs of classes each have 2^24
_DIGITS = 40  # of the seal in a parquet file's name
_SEALED_NAME = re.compile(rf"-([0-9a-f]{{{_DIGITS}}})\.parquet$")
_COMMENT = b"seal:"


class Damaged(LabError):
    """A file that does not hold what was written into it, or lies where it does not belong.

    Attributes:
        path: the file.
        reason: what is wrong with it, as a predicate.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


class Read(NamedTuple):
    """What a file held.

    Attributes:
        content: its content.
        sealed: whether it had a seal, which then was right.
    """

    content: Any
    sealed: bool


def seal(belongs: Mapping[str, str], *content: Any) -> str:
    """64 hex digits over where a file belongs and the buffers that it holds."""
    state = hashlib.blake2b(_text(belongs).encode(), digest_size=32)
    for part in content:
        state.update(part)
    return state.hexdigest()


def write_json(path: Path, record: Mapping[str, Any], *, first: bool = False) -> None:
    """Write a record with its seal. What it belongs to stands in the record itself.

    Raises:
        LabError: as `atomic.write`.
    """
    sealed = {**record, SEAL: seal({}, _text(record).encode())}
    atomic.write_text(path, json.dumps(sealed, indent=1), first=first)


def read_json(path: Path) -> Read:
    """A record without its seal.

    Raises:
        Damaged: no JSON object, or a seal that is not this content's.
        FileNotFoundError: there is no such file.
    """
    try:
        record = json.loads(_bytes(path).decode())
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"cannot be read (not a JSON record: {_line(error)})") from None
    said = record.pop(SEAL, None)
    if said is not None and said != seal({}, _text(record).encode()):
        raise Damaged(path, "is not what was written: its seal is not that of its content")
    return Read(record, said is not None)


def write_table(
    folder: Path, kind: str, frame: pd.DataFrame, belongs: Mapping[str, str], *, sync: bool = False
) -> Path:
    """Write ``<folder>/<kind>-<seal>.parquet``: the same content has the same name.

    Args:
        folder: made if it does not exist.
        kind: how the file's name begins.
        frame: its columns; the index is not kept.
        belongs: kept in the schema's metadata.
        sync: return once file and name are on the disk.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    said = {BELONGS: _text({**belongs, "kind": kind}).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **said})
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    content = sink.getvalue()
    path = folder / f"{kind}-{seal({}, content)[:_DIGITS]}.parquet"
    atomic.write(path, lambda temporary: temporary.write_bytes(content), sync=sync)
    return path


def read_table(
    path: Path,
    kind: str,
    belongs: Mapping[str, str],
    columns: list[str] | None = None,
    optional: Sequence[str] = (),
) -> Read:
    """Columns of a parquet file; all if None. Optional ones where there are.

    Raises:
        Damaged: bytes that are not those of the name, another cell's or kind's file, no parquet,
            or a column that is missing.
        FileNotFoundError: there is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _bytes(path)
    named = _SEALED_NAME.search(path.name)
    if named and named[1] != seal({}, content)[:_DIGITS]:
        raise Damaged(path, "is not what was written: its name is not that of its bytes")
    try:
        file = pq.read_metadata(pa.BufferReader(content))
        if file.num_rows > MOST_ROWS:
            raise ValueError(f"{file.num_rows} rows, more than {MOST_ROWS}")
        there = file.schema.to_arrow_schema().names
        chosen = None if columns is None else [*columns, *(c for c in optional if c in there)]
        table = pq.read_table(
            pa.BufferReader(content),
            columns=chosen,
            page_checksum_verification=True,
        )
        if columns and set(columns) - set(table.column_names):
            raise ValueError(
                f"it lacks {', '.join(sorted(set(columns) - set(table.column_names)))}"
            )
        said = (table.schema.metadata or {}).get(BELONGS)
        frame = _frame(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise Damaged(path, f"cannot be read (not a table of {kind}: {_line(error)})") from None
    wanted = _text({**belongs, "kind": kind}).encode()
    if said is not None and said != wanted:
        raise Damaged(path, f"belongs to {said.decode(errors='replace')}")
    return Read(frame, bool(named) and said is not None)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    belongs: Mapping[str, str],
    said: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        tensors: by name.
        belongs: needed again to read it; not kept in the file.
        said: further metadata, which the seal covers.
    """
    from safetensors.torch import save_file

    metadata = dict(said or {})
    metadata[SEAL] = _tensor_seal(tensors, metadata, belongs)
    atomic.write(path, lambda temporary: save_file(dict(tensors), temporary, metadata))


def read_tensors(path: Path, belongs: Mapping[str, str]) -> tuple[Read, dict[str, str]]:
    """The tensors by name, and the file's other metadata.

    Raises:
        Damaged: no safetensors file, or a seal that is not this content's in this place.
        FileNotFoundError: there is no such file.
        LabError: it cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    try:
        _check_file(path, LARGEST_TENSORS)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error
    except (
        SafetensorError, ValueError, RuntimeError, KeyError, AttributeError, MemoryError
    ) as error:  # fmt: skip
        raise Damaged(path, f"is not a safetensors file: {_line(error)}") from None
    said = metadata.pop(SEAL, None)
    if said is not None and said != _tensor_seal(tensors, metadata, belongs):
        raise Damaged(path, "is not what was written here: its seal is not that of its content")
    return Read(tensors, said is not None), metadata


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], belongs: Mapping[str, str]) -> None:
    """Write a compressed npz file."""

    def save(temporary: Path) -> None:
        sink = io.BytesIO()
        np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
        with zipfile.ZipFile(sink, "a") as archive:
            archive.comment = _COMMENT + b"0" * 64
        content = sink.getvalue()[:-64]
        temporary.write_bytes(content + seal(belongs, content).encode())

    atomic.write(path, save)


def read_arrays(path: Path, belongs: Mapping[str, str]) -> Read:
    """The arrays of an npz file by name.

    Raises:
        Damaged: no npz file, or a seal that is not this content's in this place.
        FileNotFoundError: there is no such file.
    """
    content = _bytes(path)
    place = content.rfind(_COMMENT, -128)
    sealed = place >= 0
    end = place + len(_COMMENT)
    if sealed and content[end:] != seal(belongs, content[:end]).encode():
        raise Damaged(path, "is not what was written here: its seal is not that of its content")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > LARGEST:
            raise ValueError(f"it unpacks to {unpacked} bytes, more than {LARGEST}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Read(dict(arrays), sealed)
    except (
        OSError, ValueError, EOFError, TypeError, KeyError, AttributeError, SyntaxError,
        NotImplementedError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise Damaged(path, f"cannot be read (not an npz file: {_line(error)})") from None


def set_aside(root: Path, damaged: Damaged) -> None:
    """Move a damaged file below ``<root>/damaged`` and say so. It is never deleted.

    Where that cannot be done (a store that is read-only) the file stays, and is passed over.
    """
    path = damaged.path
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    target = root / DAMAGED / inside.with_name(f"{inside.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    except FileNotFoundError:  # another process has done so
        return
    except OSError as error:
        log.warning("%s; it is damaged and stays there: %s", damaged, error.strerror)
        return
    log.warning("%s; it is damaged, and set aside as %s", damaged, target)


def _tensor_seal(
    tensors: Mapping[str, Tensor], said: Mapping[str, str], belongs: Mapping[str, str]
) -> str:
    parts: list[Any] = [_text(said).encode()]
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        parts.append(_raw(tensor))
    return seal(belongs, *parts)


def _raw(tensor: Tensor) -> Any:
    import torch

    flat = tensor.reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _frame(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _check_file(path: Path, most: int) -> None:
    """Refuse what cannot be a file of ours before it is opened: a pipe's reading never ends."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise Damaged(path, "is a pipe or device, not a file")
    if found.st_size > most:
        raise Damaged(path, f"has {found.st_size} bytes; no file of this kind has more than {most}")


def _bytes(path: Path) -> bytes:
    try:
        _check_file(path, LARGEST)
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from error


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(plain(value), sort_keys=True)


def _line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
