"""A look at the command line before Hydra's: unknown names get the nearest known ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.config.composition import CONFIG, PLACES, loader
from sclip_lab.core.errors import LabError, unknown

# Keys that a user may know, and that only some data sets have.
MOVED = {
    "dataset.images": "how many photos is dataset.limit (the first so many) or dataset.sample (so "
    "many at random)",
}


def check(arguments: Sequence[str]) -> None:
    """Compare choices and keys with what Hydra finds, ``--config-dir`` and ``hydra.searchpath``
    included. What it does not understand is left to Hydra.

    Raises:
        LabError: an unknown choice or key (did you mean), a plus too much, or two presets at once.
    """
    args = get_args_parser().parse_args(list(arguments))
    if args.experimental_rerun is not None:
        raise LabError(
            f"--experimental-rerun {args.experimental_rerun}: not taken, for its file is a pickle, "
            "which can run code; type the keys of .hydra/overrides.yaml instead"
        )
    if args.help or args.hydra_help or args.config_name or args.config_path:
        return
    configs = loader([Path(args.config_dir)] if args.config_dir else [])
    try:
        overrides = _parsed(OverridesParser.create(configs), args.overrides)
        found = _Options(configs, overrides)
        choices = [o for o in overrides if found.of(o.key_or_group)]
        for override in choices:
            _check_choice(override, found.of(override.key_or_group))
        if any(o not in choices and _changes(o) for o in overrides):
            words = [word for o in overrides if o in choices for word in _first(o)]
            config = configs.load_configuration(
                CONFIG, [*found.search_path, *words], run_mode=RunMode.RUN, from_shell=False
            )
            for override in overrides:
                if override not in choices and _changes(override):
                    _check_key(config, override.key_or_group, found.groups)
    except (HydraException, OmegaConfBaseException):
        return


def _parsed(parser: OverridesParser, words: Sequence[str]) -> list[Override]:
    try:
        return parser.parse_overrides(list(words))
    except HydraException:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        longest = max(words, key=len)
        raise LabError(f"{longest[:60]}...: {error}") from error


class _Options:
    """The choices of groups, as Hydra's search path has them for these overrides."""

    def __init__(self, configs: ConfigLoaderImpl, overrides: Sequence[Override]) -> None:
        self.configs = configs
        self.search_path = [
            str(o.input_line) for o in overrides if o.key_or_group == "hydra.searchpath"
        ]
        self.groups = configs.list_groups("")

    def of(self, group: str) -> list[str]:
        """All files of a group but its shared parts; none of what is no group."""
        options = self.configs.get_group_options(
            group, config_name=CONFIG, overrides=self.search_path
        )
        return [name for name in options if not name.startswith("_")]


def _check_choice(override: Override, known: Sequence[str]) -> None:
    group = override.key_or_group
    if group == "experiment" and len(_first(override, whole=True)) > 1:
        raise LabError(
            f"{override.input_line}: one preset at a time. Run them one after another; "
            "what two have in common is computed once"
        )
    if override.is_add():
        raise LabError(f"{override.input_line}: leave out the plus, {group} has a choice already")
    for word in _first(override, whole=True):
        name = word.partition("=")[2]
        if name not in (*known, "null"):
            raise unknown(group, name, known)


def _first(override: Override, whole: bool = False) -> list[str]:
    """``group=name`` of the first choice that is swept, or of all; none where Hydra has to ask."""
    key = override.key_or_group + (f"@{override.package}" if override.package else "")
    if override.is_delete():
        return []
    value: Any = override.value()
    if override.is_choice_sweep():
        names = [str(name) for name in getattr(value, "list", [])]
    else:
        names = [str(name) for name in value] if isinstance(value, list) else [str(value)]
    names = ["null" if name == "None" else name for name in names]
    return [key + "=" + name for name in names][: None if whole else 1]


def _changes(override: Override) -> bool:
    """Whether it sets a key that must be there: no plus, and not one of Hydra's own."""
    added = override.is_add() or override.is_force_add() or override.is_delete()
    return not added and not override.is_hydra_override() and override.package is None


def _check_key(config: DictConfig, key: str, groups: Sequence[str]) -> None:
    """Every part of a dotted key, as far as it leads through mappings of the yaml itself."""
    node, passed = config, ""
    first, dot, rest = key.partition(".")
    if first in PLACES:
        raise LabError(f"unknown key '{key}'; did you mean {PLACES[first]}{dot}{rest}?")
    for part in key.replace("/", ".").split("."):
        if part not in list(node):  # "in node" is false of a value that is ???
            if passed + part in MOVED:
                raise LabError(f"unknown key '{passed}{part}'; {MOVED[passed + part]}")
            known = {passed + str(name) for name in node} | set(() if passed else groups)
            raise unknown("key", f"{passed}{part}", known - {"hydra"})
        below = node._get_node(part)
        if not isinstance(below, DictConfig) or below._is_interpolation() or below._is_none():
            return
        node, passed = below, f"{passed}{part}."
