"""Steps of conversions: find downloads, map ids, write masks and place photos."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.progress import Bar
from sclip_lab.data.decode import read_text
from sclip_lab.data.paths import below


def remap(raw: np.ndarray, table: Mapping[int, int], source: object) -> np.ndarray:
    """Replace integers by ``table``: (height, width) uint8. An integer that the table lacks raises
    a LabError that names ``source``."""
    values, inverse = np.unique(raw, return_inverse=True)
    strange = [value for value in values.tolist() if value not in table]
    if strange:
        raise LabError(f"{source}: ids {strange[:5]} do not occur in this data set's format")
    return np.array([table[v] for v in values.tolist()], np.uint8)[inverse].reshape(raw.shape)


def read_mat(path: Path, field: str) -> np.ndarray:
    """(height, width) int64 of the matrix ``field`` of a MATLAB file."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[field])
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise LabError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    if field not in content:
        raise LabError(f"{path}: holds no matrix '{field}'; is it this data set's label file?")
    return np.asarray(content[field]).astype(np.int64)


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a png of ids, whole or not at all."""
    files.write(path, lambda temporary: Image.fromarray(mask).save(temporary, "PNG"))


def place(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` by a hard link, or by a copy if the file system allows no link.
    Another file at ``target`` is replaced."""
    if not source.is_file():
        raise LabError(f"{source}: no such file; the download is incomplete")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and os.path.samefile(source, target):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link(source: Path, root: Path, places: Iterable[str], pattern: str, absent: str) -> str:
    """Make ``root`` a symbolic link to the first of ``places`` below ``source`` that has files of
    ``pattern``; return what was done, in words. ``absent`` is the error's text if none has."""
    folders = (source / place for place in places)
    folder = next((f for f in folders if next(f.glob(pattern), None)), None)
    if folder is None:
        raise LabError(absent)
    as_it_lies = f"{folder.resolve()} works as it lies, nothing to convert"
    if root.exists():
        if os.path.samefile(root, folder):
            return f"{root}: already in place; {as_it_lies}"
        raise LabError(f"{root} is there already and is not {folder}; remove it or choose --to")
    root.parent.mkdir(parents=True, exist_ok=True)
    root.symlink_to(folder.resolve(), target_is_directory=True)
    return f"{root}: link to {folder.resolve()}; {as_it_lies}"


class Incomplete(LabError):
    """The download lacks a part of the data set's original files."""


def search(source: Path, places: Iterable[str], pattern: str, what: str = "") -> list[Path]:
    """The sorted files of ``pattern`` in the first of ``places`` that has any; [] if none has.

    Raises:
        Incomplete: none has any, and ``what`` is given, which is the error's word for the files.
    """
    places = list(places)
    for place_ in places:
        with suppress(OSError):
            if paths := sorted((source / place_).glob(pattern)):
                return paths
    if not what:
        return []
    looked = ", ".join(os.path.normpath(source / place_ / pattern) for place_ in places)
    raise Incomplete(f"no {what} found; looked for {looked}")


def stems_of(path: Path) -> list[str]:
    """The names of a list; a name that leads out of the folder is an error."""
    stems = lines_of(path)
    for stem in stems:
        below(path.parent, stem, path)
    return stems


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without blanks around them."""
    return [line.strip() for line in read_text(path, "list").splitlines() if line.strip()]


def for_each(function: Callable[[Any], None], items: Sequence[Any], title: str) -> None:
    """Call the function on each item in threads (decoding and encoding release Python's lock)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(function, items)
        try:
            for _ in Bar(results, total=len(items), desc=title, unit="mask", delay=1):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
