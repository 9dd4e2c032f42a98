"""Paths whose parts come from a file: a list, a json, an archive, the names of samples."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from sclip_lab.core.errors import LabError

MAX_NAME = 1024  # characters


def below(folder: Path, name: object, source: object) -> Path:
    """``folder / name``, and surely below the folder.

    Args:
        folder: the user's choice.
        name: what a file says: a relative path with forward slashes.
        source: that file, for the error.

    Raises:
        LabError: the name is absolute, leads out of the folder, is empty or no text, or has
            control characters.
    """
    text = name if isinstance(name, str) else ""
    parts = PurePosixPath(text).parts
    windows = PureWindowsPath(text)
    wrong = (
        not parts
        or ".." in parts
        or PurePosixPath(text).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
        or not text.isprintable()
        or len(text) > MAX_NAME
    )
    if wrong:
        shown = ascii(name)[:80]
        raise LabError(f"{source}: {shown} is not the name of a file below {folder}")
    return folder / text
