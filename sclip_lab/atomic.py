"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sclip_lab.errors import LabError


def write(path: Path, save: Callable[[Path], object], *, first: bool = False) -> None:
    """Let ``save`` write a temporary file beside ``path``, then move it there.

    Args:
        path: the file.
        save: writes what it is given the path of.
        first: of several writers, the first one's file stays.

    Raises:
        LabError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        if first:
            _move_unless_there(temporary, path)
        else:
            os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise LabError(
            f"cannot write {path}: {error.strerror or error}; "
            "free space or choose another place with paths.store"
        ) from error


def write_text(path: Path, text: str, *, first: bool = False) -> None:
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), first=first)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    write(path, lambda temporary: save_file(tensors, temporary))


def _move_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike os.replace, fails where there is a file
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: the last writer's stays
        os.replace(temporary, path)
        return
    temporary.unlink()
