"""A user's own modules and folders of yaml files.

A user allows yaml files to name functions of a module in one of three ways: by the entry point
``sclip_lab.plugins`` of an installed package, by ``plugins=[my.module]`` on the command line, or by
`allow` in Python. A yaml file itself cannot allow a module.
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
    """Let yaml files name functions of modules, and add a folder of yaml files.

    >>> allow("my_project.attention", conf="my_project/conf")  # doctest: +SKIP

    Args:
        modules: dotted names; modules below them are included. A module is imported when a yaml
            first names a function of it.
        conf: a folder laid out like ``conf/``: ``attention/mine.yaml`` becomes
            ``load_attention("mine")``.

    Raises:
        LabError: not the name of a module, or no such folder.
    """
    functions.allow(*modules)
    if conf is not None:
        if not Path(conf).is_dir():
            raise LabError(f"conf={conf}: no such folder")
        add_folder(Path(conf))


def enter(arguments: Sequence[str]) -> None:
    """Allow the modules and add the folders that a command line of ``sclip-lab evaluate`` names.

    The words ``plugins=[...]``, ``--config-dir`` and ``hydra.searchpath`` name them. They are put
    into the environment, so that the processes of jobs have them too. A module that the command
    line or the variable ``SCLIP_LAB_PLUGINS`` names may lie in the current folder.

    Raises:
        LabError: not the name of a module, or a module that Python does not find.
    """
    modules, folders = _on_line(arguments)
    functions.allow(*modules)
    for module in functions.allowed():
        top = module.partition(".")[0]
        missing = importlib.util.find_spec(top) is None and not _in_this_folder(top)
        if missing and module in modules:
            raise LabError(f"plugins=[{module}]: {functions.absent(top)}")
    _extend(functions.VARIABLE, modules, ",")
    _extend(VARIABLE, [str(folder.absolute()) for folder in folders], os.pathsep)


def check(modules: Iterable[str]) -> None:
    """Check that the user allowed all ``plugins`` of a configuration."""
    for module in modules:
        if module not in functions.allowed():
            raise LabError(
                f"plugins: '{module}' is named by a yaml; if you trust it, type plugins=[{module}]"
            )


def _on_line(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
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


def _in_this_folder(top: str) -> bool:
    """Return whether the current folder holds the module. If so, put it on Python's path, where a
    console script lacks it."""
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
