"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sclip_lab.core.errors import LabError

if TYPE_CHECKING:
    from torch import Tensor

# A temporary file of a process that cannot be asked for any more is lost after so long.
LOST_SECONDS = 24 * 3600
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{12}\.tmp$")


def write(
    path: Path, save: Callable[[Path], object], *, first: bool = False, sync: bool = False
) -> None:
    """Let ``save`` write a temporary file beside ``path``, then move it there.

    Args:
        path: the file.
        save: writes what it is given the path of.
        first: of several writers, the first one's file stays.
        sync: return once the file and its name are on the disk, for what a power cut must not
            take.

    Raises:
        LabError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(_temporary_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        if sync:
            sync_file(temporary)
        if first:
            _move_unless_there(temporary, path)
        else:
            os.replace(temporary, path)
        if sync:
            sync_file(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = _refused(error)
        if reason is None:
            raise
        raise LabError(
            f"cannot write {path}: {reason}; free space or name another folder than {path.parent}"
        ) from error


def probe(folder: Path) -> None:
    """Find out whether a folder can be made and written.

    Raises:
        LabError: it cannot.
    """
    path = folder / _temporary_name()
    write_text(path, "")
    path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    write(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str, *, first: bool = False) -> None:
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), first=first)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    write(path, lambda temporary: save_file(tensors, temporary))


def sync_file(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Where the system cannot say (some network file systems, folders on Windows) nothing is done.
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether a file's name is one of a file that is being written, or was when a process died."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def is_lost(path: Path) -> bool:
    """Whether nobody writes a temporary file any more: its process is gone, or a day has passed."""
    named = _TEMPORARY.fullmatch(path.name)
    if named and named[1] == _place():
        return not _alive(int(named[2]))
    try:
        return time.time() - path.stat().st_mtime > LOST_SECONDS
    except OSError:
        return False


def sweep(folder: Path) -> None:
    """Remove the lost temporary files of one folder."""
    with contextlib.suppress(OSError):
        for path in list(folder.glob(".*.tmp")):
            if is_lost(path):
                path.unlink(missing_ok=True)


def _temporary_name() -> str:
    return f".{_place()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp"


def _refused(error: BaseException) -> str | None:
    """Why the system refused to write; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # safetensors has one class for all of its errors, and puts the system's words into it
    if type(error).__name__ == "SafetensorError" and "error" in str(error).lower():
        return str(error)
    return None


@functools.cache
def _place() -> str:
    """8 hex digits for the machine and its set of process numbers, in which a pid means one
    process."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _move_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike os.replace, fails where there is a file
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: the last writer's stays
        os.replace(temporary, path)
        return
    temporary.unlink()
