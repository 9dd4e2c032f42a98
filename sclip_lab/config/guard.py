"""What a yaml of a stranger may not do: read the environment, or have Hydra call what it likes.

Values may refer to each other and use the laboratory's own resolvers. Of Hydra's own section the
launchers, sweepers and handlers that Hydra brings or plug-ins install are let in, and what a job's
processes run (shell lines, environment) only from Hydra's own groups or the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import allowed
from sclip_lab.core.values import shown

LARGEST, DEEPEST, REPEATED = 1_000_000, 50, 20  # of a yaml: bytes, levels, anchors and aliases
LONGEST_NAME = 200  # bytes of a file's name, with room for an ending
_NESTED = re.compile(rf"(- |\? ){{{DEEPEST}}}|^[ ]{{400}}", re.MULTILINE)
_REPEATED = re.compile(r"(?:^|[\s\[,{])[&*]\w")
RESOLVERS = ("package", "on_dataset", "on_protocol", "oc.env")
# What a value of Hydra's section is called that makes Python import something.
_PLUGINS = re.compile(r"(hydra\._internal\.core_plugins|hydra\.experimental|hydra_plugins)\.[\w.]+")
_LOGGING = re.compile(r"(logging\.(handlers\.)?\w*(Handler|Formatter)|colorlog\.ColoredFormatter)")
_STREAM = re.compile(r"ext://sys\.std(out|err)")
_CALLED = {"_target_": _PLUGINS, "()": _LOGGING, "class": _LOGGING}
_RUN = ("hydra.job.env_set", "hydra.launcher.setup", "hydra.launcher.additional")
_REFERENCE = re.compile(r"\$\{([^{}:$]*)(.)", re.DOTALL)
_OWN_VARIABLE = re.compile(r"\s*SCLIP_LAB_\w+\s*[,}]")


def check_values(config: Any) -> None:
    """Every reference of a configuration but those of Hydra's own section.

    Raises:
        LabError: one that reads the environment, calls another resolver, or reaches into Hydra's
            section, where a user's own settings may be.
    """
    content = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    for key, value in _leaves(content):
        if key.startswith("hydra."):
            continue
        for reference in _REFERENCE.finditer(value):
            name, end = reference[1].strip(), reference[2]
            if end == "$":
                raise LabError(f"{key}: {value!r} builds a reference from another; name it plainly")
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


def check_hydra(config: DictConfig) -> None:
    """That Hydra's section names nothing but what Hydra brings and plug-ins install.

    Raises:
        LabError: something else that Python would import or call.
    """
    name = OmegaConf.select(config, "hydra.job.name")  # of the log's file
    if name is not None and not _is_file_name(str(name)):
        raise LabError(f"hydra.job.name: {shown(name)} must be the name of a file, without folders")
    for key in ("hydra.sweeper", "hydra.launcher", "hydra.run", "hydra.sweep", "hydra.job"):
        if not isinstance(part := OmegaConf.select(config, key), DictConfig):
            raise LabError(f"{key}: {shown(part)} must be a mapping")
    section = OmegaConf.to_container(config.hydra)
    for key, value in _leaves(section, "hydra."):
        known = _STREAM if "ext:" in value else _CALLED.get(key.rpartition(".")[2])
        of_user = value.startswith(tuple(f"{module}." for module in allowed()))
        if known and not of_user and not known.fullmatch(value):
            raise LabError(f"{key}: '{value}' is neither Hydra's nor of an allowed module")


def commands_in(config: DictConfig) -> dict[str, Any]:
    """What a configuration has a job's processes run: shell lines, environment, sbatch options."""
    settings = {key: OmegaConf.select(config, key) for key in _RUN}
    return {key: value for key, value in settings.items() if value}


def check_commands(commands: Mapping[str, Any], usual: DictConfig) -> None:
    """That commands come from Hydra's own groups or the command line.

    Args:
        commands: of `commands_in`.
        usual: the configuration of those groups and words alone.

    Raises:
        LabError: another yaml sets them.
    """
    for key, value in commands.items():
        if value != OmegaConf.select(usual, key):
            raise LabError(
                f"{key} is set by a yaml that is none of Hydra's; what a job runs is typed, or "
                "stands in a file of conf/hydra/launcher"
            )


def check_file(path: Path) -> None:
    """That a yaml can be parsed in a moment, whatever is in it.

    Raises:
        LabError: no file of a size that yaml has, not UTF-8, or nested or repeated so much that
            parsing would not end.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise LabError(f"{path}: no yaml file of at most {LARGEST} bytes")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: {error}") from error
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST or _NESTED.search(text):
        raise LabError(f"{path}: nested more than {DEEPEST} levels deep")
    if len(_REPEATED.findall(text)) > REPEATED:
        raise LabError(f"{path}: more than {REPEATED} anchors (&) and aliases (*)")


def _is_file_name(text: str) -> bool:
    return text.isprintable() and "/" not in text and 0 < len(text.encode()) <= LONGEST_NAME


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in a configuration; keys are texts too."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{prefix}{index}.")
    elif isinstance(node, str):
        yield prefix.removesuffix("."), node
