"""Find yaml files: the folders that hold them, and the names in each. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from sclip_lab.core.functions import installed

PACKAGE = Path(__file__).resolve().parents[1]
VARIABLE = "SCLIP_LAB_CONF"  # the user's folders, separated as in PATH
_added: list[Path] = []


def conf_dir() -> Path:
    """The package's yaml files: beside the package in a checkout, inside it in a wheel."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def add_folder(folder: Path) -> None:
    """Add a folder of yaml files, for this process."""
    if folder.resolve() not in _added:
        _added.append(folder.resolve())


def folders() -> list[Path]:
    """The folders of yaml files in the order of search.

    The package's own folder is first, so that nobody can redefine its names. Then come those of the
    environment variable, of this process and of installed plug-ins.
    """
    in_environment = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    of_plugins = []
    for module in installed():  # packages of entry points, which are found without an import
        top, *below = module.split(".")
        spec = importlib.util.find_spec(top)
        places = (spec and spec.submodule_search_locations) or ()
        of_plugins += [Path(place, *below, "conf") for place in places]
    candidates = [conf_dir(), *in_environment, *_added, *of_plugins]
    return [folder for folder in dict.fromkeys(f.resolve() for f in candidates) if folder.is_dir()]


def names(group: str) -> list[str]:
    """The choices of a group. Files that begin with an underscore are no choices, but shared."""
    stems = (path.stem for folder in folders() for path in (folder / group).glob("*.yaml"))
    return sorted({stem for stem in stems if stem[0] != "_"})


def find(group: str, name: str) -> Path | None:
    """The file of a choice; None if there is no such file."""
    paths = (folder / group / f"{name}.yaml" for folder in folders())
    return next((path for path in paths if path.is_file()), None)
