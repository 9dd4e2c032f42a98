"""What a user adds without touching this package: modules, and folders of yaml files.

Three ways say that a module's functions may be named in yaml, each the user's own act: an installed
package's entry point ``sclip_lab.plugins``, ``plugins=[my.module]`` typed on the command line, and
`allow` in a script or a notebook. A yaml alone never imports foreign code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sclip_lab.config.folders import VARIABLE, add_folder
from sclip_lab.core import functions
from sclip_lab.core.errors import LabError


def allow(*modules: str, conf: str | Path | None = None) -> None:
    """Let yaml files name functions of these modules, and look for yaml files in a folder.

    >>> allow("my_project.attention", conf="my_project/conf")  # doctest: +SKIP

    Args:
        modules: dotted names; modules below them are included. They are imported when the first
            yaml names one.
        conf: a folder laid out like ``conf/``: ``attention/mine.yaml`` becomes
            ``load_attention("mine")``.

    Raises:
        LabError: not the name of a module, or no such folder.
    """
    functions.allow(*modules)
    if conf is not None:
        _add_folder(Path(conf))


def enter(arguments: Sequence[str]) -> None:
    """Allow what a command line names itself: ``plugins=[...]``, ``--config-dir`` and
    ``hydra.searchpath``. The processes of its jobs learn of it too. A module that it names, or
    that the variable ``SCLIP_LAB_PLUGINS`` names, may lie in the current folder.

    Raises:
        LabError: not the name of a module, or a module that Python does not find.
    """
    modules, folders = _typed(arguments)
    functions.allow(*modules)
    for module in functions.allowed():
        top = module.partition(".")[0]
        missing = importlib.util.find_spec(top) is None and not _in_this_folder(top)
        if missing and module in modules:
            raise LabError(f"plugins=[{module}]: {functions.absent(top)}")
    _extend(functions.VARIABLE, modules, ",")
    _extend(VARIABLE, [str(folder.absolute()) for folder in folders], os.pathsep)


def check(named: Iterable[str]) -> None:
    """A configuration's ``plugins`` were all typed, or allowed otherwise.

    Raises:
        LabError: one comes from a yaml.
    """
    for module in named:
        if module not in functions.allowed():
            raise LabError(
                f"plugins: '{module}' is named by a yaml; if you trust it, type plugins=[{module}]"
            )


def _typed(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    modules, folders = [], []
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            following = arguments[place + 1 : place + 2]
            folders += [Path(v) for v in ([value] if value else following)]
        listed = [part.strip(" '\"") for part in value.strip(" '\"[]").split(",")]
        if name.lstrip("+") == "plugins":
            modules += [part for part in listed if part]
        elif name.lstrip("+") == "hydra.searchpath":
            folders += [Path(p.removeprefix("file://")) for p in listed if p.startswith("file://")]
    return modules, folders


def _add_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise LabError(f"conf={folder}: no such folder")
    add_folder(folder)


def _in_this_folder(top: str) -> bool:
    """Let Python look in the current folder, where the console script does not, if a module is
    there."""
    here = Path.cwd()
    if not (here / top).is_dir() and not (here / f"{top}.py").is_file():
        return False
    sys.path.append(str(here))
    _extend("PYTHONPATH", [str(here)], os.pathsep)
    return True


def _extend(variable: str, values: Iterable[str], separator: str) -> None:
    before = [part for part in os.environ.get(variable, "").split(separator) if part]
    if joined := separator.join(dict.fromkeys([*before, *values])):
        os.environ[variable] = joined
