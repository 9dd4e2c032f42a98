"""Refuse a stranger's yaml that reads the environment or makes Hydra call foreign code.

Values may refer to each other and use this package's resolvers. Hydra's section may name the
launchers, sweepers and handlers of Hydra and of installed plug-ins. Shell lines and environment
variables for a job's processes may only come from Hydra's own groups or the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import allowed
from sclip_lab.core.values import leaves, shown

LARGEST, DEEPEST, REPEATED = 1_000_000, 50, 20  # in a yaml: bytes, levels, anchors and aliases
LONGEST_NAME = 200  # bytes of a file's name, with room for an ending
_NESTED = re.compile(rf"(- |\? ){{{DEEPEST}}}|^[ ]{{400}}", re.MULTILINE)
_REPEATED = re.compile(r"(?:^|[\s\[,{])[&*]\w")
RESOLVERS = ("package", "on_dataset", "on_protocol", "oc.env")
# Values of Hydra's section that Python imports, by their keys.
_PLUGINS = re.compile(r"(hydra\._internal\.core_plugins|hydra\.experimental|hydra_plugins)\.[\w.]+")
_LOGGING = re.compile(r"(logging\.(handlers\.)?\w*(Handler|Formatter)|colorlog\.ColoredFormatter)")
_STREAM = re.compile(r"ext://sys\.std(out|err)")
_CALLED = {"_target_": _PLUGINS, "()": _LOGGING, "class": _LOGGING}
_PARTS: dict[str, Any] = {
    **dict.fromkeys(("sweeper", "launcher", "run", "sweep", "job"), DictConfig),
    "sweeper.params": DictConfig | None,
    "sweeper.grids": ListConfig | None,
}
_RUN = ("hydra.job.env_set", "hydra.launcher.setup", "hydra.launcher.additional")
_REFERENCE = re.compile(r"\$\{([^{}:$]*)(.)", re.DOTALL)
_OWN_VARIABLE = re.compile(r"\s*SCLIP_LAB_\w+\s*[,}]")


def check_values(config: Any) -> None:
    """Check the references (``${...}``) of a configuration outside of Hydra's section.

    Raises:
        LabError: a reference reads the environment, calls a resolver that is not in `RESOLVERS`,
            or reads Hydra's section, which may hold a user's own settings.
    """
    content = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    for key, value in leaves(content):
        if key.startswith("hydra.") or not isinstance(value, str):
            continue
        for reference in _REFERENCE.finditer(value):
            name, end = reference[1].strip(), reference[2]
            if end == "$":
                raise LabError(f"{key}: {value!r} has a reference within a reference; use one")
            if name.split(".")[0] == "hydra" or (end == ":" and name not in RESOLVERS):
                raise LabError(
                    f"{key}: {value!r} uses '{name}', which no yaml may; known: "
                    f"{', '.join(RESOLVERS)} (the shell can put it in: {key}=$VARIABLE)"
                )
            if name == "oc.env" and not _OWN_VARIABLE.match(value, reference.end()):
                raise LabError(
                    f"{key}: {value!r} reads the environment; only SCLIP_LAB_* are read "
                    f"(the shell can put it in: {key}=$VARIABLE)"
                )


def check_hydra(config: DictConfig, compose_usual: Callable[[], DictConfig]) -> None:
    """Check that Hydra's section only names code of Hydra and of allowed modules.

    What a job's processes run (shell lines, environment variables, sbatch options) must come from
    Hydra's own groups or the command line.

    Args:
        config: the composed configuration.
        compose_usual: composes only Hydra's own groups and the command line. It is called only if
            there are commands.

    Raises:
        LabError: a value names other code that Python would import or call, another yaml sets a
            command, or a value has a wrong type.
    """
    name = OmegaConf.select(config, "hydra.job.name")  # names the log file
    text = "job" if name is None else str(name)
    if not text.isprintable() or "/" in text or not 0 < len(text.encode()) <= LONGEST_NAME:
        raise LabError(f"hydra.job.name: {shown(name)} must be the name of a file, without folders")
    for key, kind in _PARTS.items():
        part = OmegaConf.select(config, f"hydra.{key}")
        if not isinstance(part, kind):
            words = "a list of mappings" if key == "sweeper.grids" else "a mapping"
            raise LabError(f"hydra.{key}: {shown(part)} must be {words}")
    verbose = OmegaConf.select(config, "hydra.verbose")
    if not isinstance(verbose, bool | str | ListConfig):
        raise LabError(f"hydra.verbose: {shown(verbose)} must be true, false or names of loggers")
    section = OmegaConf.to_container(config.hydra)
    for key, value in leaves(section, "hydra"):
        if not isinstance(value, str):
            continue
        pattern = _STREAM if "ext:" in value else _CALLED.get(key.rpartition(".")[2])
        of_user = value.startswith(tuple(f"{module}." for module in allowed()))
        if pattern and not of_user and not pattern.fullmatch(value):
            raise LabError(f"{key}: '{value}' is neither Hydra's nor of an allowed module")
    commands = {key: OmegaConf.select(config, key) for key in _RUN}
    usual = compose_usual() if any(commands.values()) else config
    for key, value in commands.items():
        if value and value != OmegaConf.select(usual, key):
            raise LabError(
                f"{key} is set by a yaml that is none of Hydra's; type what a job runs, or write "
                "it into a file of conf/hydra/launcher"
            )


def check_file(path: Path) -> None:
    """Check that parsing a yaml takes only a moment.

    Raises:
        LabError: the path is no regular file, or the file has more than `LARGEST` bytes, is not
            UTF-8, or is nested or repeats itself so much that parsing would not end.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise LabError(f"{path}: must be a yaml file of at most {LARGEST} bytes")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: {error}") from error
    steps = (1 if sign in "[{" else -1 for sign in re.findall(r"[\[\]{}]", text))
    if max(accumulate(steps), default=0) > DEEPEST or _NESTED.search(text):
        raise LabError(f"{path}: nested more than {DEEPEST} levels deep")
    if len(_REPEATED.findall(text)) > REPEATED:
        raise LabError(f"{path}: more than {REPEATED} anchors (&) and aliases (*)")
