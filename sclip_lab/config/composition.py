"""Hydra composes conf/ here for a Python call as it does for a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.config import guard
from sclip_lab.config.folders import PACKAGE, conf_dir, folders
from sclip_lab.core.errors import LabError

CONFIG = "config"
# Where a group's yaml stands in the configuration, if not under its own name.
PLACES = {"readout": "protocol.readout", "refinement": "protocol.refinement"}


def on_dataset(usual: Any, others: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """``${on_dataset:40,{voc21:65}}`` in a yaml: 65 on the data set voc21, 40 on all others.

    Args:
        usual: any value.
        others: data set name -> value.

    Raises:
        LabError: ``others`` is no mapping.
    """
    if not isinstance(others, Mapping):
        raise LabError(f"on_dataset: {others!r} must map data sets to values, such as {{voc21:65}}")
    name = OmegaConf.select(_root_, "dataset.name")
    return others.get(name, usual)


def on_protocol(usual: Any, others: Mapping[str, Mapping[str, Any]], *, _root_: DictConfig) -> Any:
    """``${on_protocol:0.3,{resclip:{cityscapes:0.2}}}`` in a yaml of a variant: 0.2 under the
    protocol resclip on the data set cityscapes, 0.3 in all other cases.

    Args:
        usual: any value.
        others: protocol name -> data set name -> value.

    Raises:
        LabError: ``others`` is no mapping of mappings.
    """
    given = others.values() if isinstance(others, Mapping) else [None]
    if not all(isinstance(each, Mapping) for each in given):
        raise LabError(
            f"on_protocol: {others!r} must map protocols to values on data sets, such as "
            "{resclip:{cityscapes:0.2}}"
        )
    name = OmegaConf.select(_root_, "protocol.name")
    return on_dataset(usual, others.get(name, {}), _root_=_root_)


OmegaConf.register_new_resolver("on_dataset", on_dataset, replace=True)
OmegaConf.register_new_resolver("on_protocol", on_protocol, replace=True)
# Files that come with the package, wherever it is installed: ${package:assets/...}
OmegaConf.register_new_resolver("package", lambda path: str(PACKAGE / path), replace=True)


def loader(folders: Sequence[Path] = ()) -> ConfigLoaderImpl:
    """Hydra's own loader of yaml files: conf/ and what plugins add, then further folders."""
    guard.install()
    search_path = create_config_search_path(f"file://{conf_dir()}")
    for folder in folders:
        # Hydra wants its schemas last.
        search_path.prepend("command-line", f"file://{folder.resolve()}", "schema")
    return ConfigLoaderImpl(search_path)


def composed(*overrides: str) -> DictConfig:
    """conf/config.yaml with overrides as one would type them; Hydra's own section included.

    Raises:
        LabError: what Hydra says is wrong.
    """
    # A copy that has its own root: nobody changes the one that is kept.
    return _composed(overrides, _stamps()).copy()


def _stamps() -> tuple[tuple[Path, int], ...]:
    """What changes when a file of conf/ does."""
    files = (path for folder in folders() for path in folder.rglob("*.yaml"))
    return tuple(sorted((path, path.stat().st_mtime_ns) for path in files))


def alone(group: str, name: str) -> DictConfig:
    """One file of a group with what its own defaults name, without the rest of conf/.

    Raises:
        LabError: what Hydra says is wrong.
    """
    return _alone(group, name, _stamps()).copy()


@lru_cache(maxsize=256)
def _alone(group: str, name: str, stamps: object) -> DictConfig:
    own = loader()
    repository = CachingConfigRepository(own.repository)
    try:
        found = create_defaults_list(repository, f"{group}/{name}", [], False, False)
        config = own._compose_config_from_defaults_list(found.defaults, repository)
    # A yaml that is none raises what it likes in Hydra's code, AssertionError included.
    except Exception as error:
        told = " ".join(str(error).split()) or f"{type(error).__name__} in its yaml"
        raise LabError(f"{group}={name}: {told}") from error
    guard.check_values(config)
    return config


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...], stamps: object) -> DictConfig:
    try:
        config = loader().load_configuration(
            CONFIG, list(overrides), run_mode=RunMode.RUN, from_shell=False
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise LabError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error
    guard.check_values(config)
    return config
