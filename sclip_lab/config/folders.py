"""Where the yaml files are, and which there are. Nothing heavy is imported for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from sclip_lab.core.functions import installed

PACKAGE = Path(__file__).resolve().parents[1]
VARIABLE = "SCLIP_LAB_CONF"  # the user's folders, separated as in PATH
_added: list[Path] = []


def conf_dir() -> Path:
    """The directory of yaml files: beside the package in a checkout, inside it in a wheel."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def add_folder(folder: Path) -> None:
    """Look for yaml files there as well, in this process."""
    if folder.resolve() not in _added:
        _added.append(folder.resolve())


def folders() -> list[Path]:
    """Where yaml files are looked for, in order: the package's own first, so that none of its
    names can be taken; then those of the environment, of this process and of installed plug-ins."""
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    every = [conf_dir(), *named, *_added, *_of_plugins()]
    return [folder for folder in dict.fromkeys(f.resolve() for f in every) if folder.is_dir()]


def names(group: str) -> list[str]:
    """The choices of a config group; files that start with an underscore are shared parts."""
    stems = (path.stem for folder in folders() for path in (folder / group).glob("*.yaml"))
    return sorted({stem for stem in stems if stem[0] != "_"})


def find(group: str, name: str) -> Path | None:
    """The file of a choice; None if there is none."""
    paths = (folder / group / f"{name}.yaml" for folder in folders())
    return next((path for path in paths if path.is_file()), None)


def _of_plugins() -> Iterator[Path]:
    """The folder ``conf`` beside the modules that entry points name, which stay unimported."""
    for module in installed():
        top, *below = module.split(".")
        spec = importlib.util.find_spec(top)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(place, *below, "conf")
