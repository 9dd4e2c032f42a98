"""Check file names that come from a list, a json, an archive or the names of samples."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from sclip_lab.core.errors import LabError

MAX_NAME = 1024  # characters


def below(folder: Path, name: object, source: object) -> Path:
    """Return ``folder / name``.

    Raises:
        LabError: the name, which stands in the file ``source``, is absolute, leads out of the
            folder, is empty, is not text, or has control characters.
    """
    text = name if isinstance(name, str) else ""
    path = PureWindowsPath(text)  # its rules refuse all that the rules of other systems do
    wrong = (
        not path.parts
        or ".." in path.parts
        or bool(path.drive or path.root)
        or not text.isprintable()
        or len(text) > MAX_NAME
    )
    if wrong:
        shown = ascii(name)[:80]
        raise LabError(f"{source}: {shown} is not the name of a file below {folder}")
    return folder / text
