"""Compose conf/ with Hydra, for Python calls and command lines.

`Loader` differs from Hydra's own loader: it checks a yaml file before it is parsed, and a composed
configuration before it is used. All errors are a `LabError`, with a suggestion for an unknown name.
Only this file and `application` use Hydra's internal modules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from sclip_lab.config import guard
from sclip_lab.config.folders import PACKAGE, conf_dir, folders, names
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import leaves

CONFIG = "config"
# Keys that a user may expect, and what to type instead.
MOVED = {
    "dataset.images": "how many photos is dataset.limit (the first so many) or dataset.sample (so "
    "many at random)",
}
# Where the configuration holds the yaml of a group, if not under the group's name.
PLACES = {"readout": "protocol.readout", "refinement": "protocol.refinement"}


def on_dataset(usual: Any, others: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """``${on_dataset:40,{voc21:65}}`` in a yaml: 65 on the data set voc21, 40 on all others."""
    if not isinstance(others, Mapping):
        raise LabError(f"on_dataset: {others!r} must map data sets to values, such as {{voc21:65}}")
    return others.get(OmegaConf.select(_root_, "dataset.name"), usual)


def on_protocol(usual: Any, others: Mapping[str, Mapping[str, Any]], *, _root_: DictConfig) -> Any:
    """``${on_protocol:0.3,{resclip:{cityscapes:0.2}}}`` in a yaml of a variant: 0.2 under the
    protocol resclip on the data set cityscapes, 0.3 in all other cases."""
    tables = others.values() if isinstance(others, Mapping) else [None]
    if not all(isinstance(table, Mapping) for table in tables):
        raise LabError(
            f"on_protocol: {others!r} must map protocols to values on data sets, such as "
            "{resclip:{cityscapes:0.2}}"
        )
    protocol = OmegaConf.select(_root_, "protocol.name")
    return on_dataset(usual, others.get(protocol, {}), _root_=_root_)


OmegaConf.register_new_resolver("on_dataset", on_dataset, replace=True)
OmegaConf.register_new_resolver("on_protocol", on_protocol, replace=True)
# The path of a file of the installed package: ${package:assets/...}
OmegaConf.register_new_resolver("package", lambda path: str(PACKAGE / path), replace=True)


def plain_config(node: Any) -> Any:
    """A node of Hydra, or a dict of nodes, as plain values with interpolations resolved.

    Raises:
        LabError: an interpolation names no key.
    """
    if isinstance(node, dict):
        return {key: plain_config(value) for key, value in node.items()}
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise LabError(f"configuration: {str(error).splitlines()[0]}") from error


class UnknownKey(LabError):
    """A key on the command line, ``key`` as typed, that the configuration does not have."""

    def __init__(self, key: str, message: object) -> None:
        self.key = key
        super().__init__(message)


class Repository(ConfigRepository):
    """Hydra's reader of yaml files, which checks each file with `guard.check_file` first.

    A file is parsed once in a process, until it changes.
    """

    _parsed: dict[tuple[Any, ...], ConfigResult | None] = {}  # noqa: RUF012, shared on purpose

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return super().load_config(config_path)
        path = Path(source.path, source._normalize_file_name(config_path))
        # Files in packages are Hydra's own, and do not change.
        status = path.stat() if source.scheme() == "file" else None
        stamp = status and (status.st_mtime_ns, status.st_size)
        key = (source.provider, str(path), config_path, stamp)
        if key not in self._parsed:
            if status:
                guard.check_file(path)
            try:
                self._parsed[key] = super().load_config(config_path)
            except RecursionError:
                raise LabError(f"{path}: a value contains itself, by an alias (*)") from None
            # Not all of these errors name the file.
            except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise LabError(reason if str(path) in reason else f"{path}: {reason}") from error
        return copy.deepcopy(self._parsed[key])  # Hydra changes what it gets


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configurations with checks, see the top of this file.

    Hydra takes 50 ms to compose a job. So a loader composes each choice of files once, and the jobs
    of a sweep that differ in values alone are copies of it.

    Args:
        folder: a folder of yaml files, searched before the package's own (``--config-dir``).
        main: the folder of ``config.yaml``; None: the package's.
    """

    def __init__(self, folder: str | Path | None = None, main: str | Path | None = None) -> None:
        search_path = create_config_search_path(f"file://{Path(main or conf_dir()).absolute()}")
        if folder is not None:
            if not Path(folder).is_dir():
                raise LabError(f"--config-dir {folder}: no such folder")
            # Hydra requires its schemas to come last.
            search_path.prepend("command-line", f"file://{Path(folder).absolute()}", "schema")
        super().__init__(search_path)
        self.repository = Repository(search_path)
        self._chosen: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """Compose one job of a sweep, as Hydra's loader does."""
        of_hydra: Any = OmegaConf.to_container(master_config.hydra.overrides.hydra)  # unresolved
        words = [*of_hydra, *sweep_overrides]
        overrides = self.parsed(words)
        values = [override for override in overrides if self._sets_a_value(override)]
        choices = tuple(str(o.input_line) for o in overrides if o not in values)
        if choices not in self._chosen:
            name = master_config.hydra.job.config_name
            self._chosen[choices] = self.load_configuration(name, list(choices), RunMode.RUN)
        config = self._chosen[choices].copy()
        with self.explained(words):
            self._apply_overrides_to_config(values, config)
        task = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in task]
        form = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            task, form.exclude_keys, form.item_sep, form.kv_sep
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)  # the time of ${now:}
        return config

    def _sets_a_value(self, override: Override) -> bool:
        """Whether an override only changes a value of the composed configuration."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.is_hydra_override()
            and not override.is_sweep_override()
            and not self.repository.group_exists(override.key_or_group)
        )

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As in Hydra; but in a sweep, a key may be one that only the swept choices have.

        Raises:
            LabError: the overrides do not compose, or `guard` refuses the configuration.
        """
        flags = run_mode, from_shell, validate_sweep_overrides
        compose = super().load_configuration
        try:
            with self.explained(overrides):
                self._check_choices(overrides)
                config = compose(config_name, overrides, *flags)
                of_hydra = [word for word in overrides if word.lstrip("+~").startswith("hydra")]
                guard.check_hydra(config, partial(compose, config_name, of_hydra, *flags))
        except UnknownKey as error:
            words = [word for word in overrides if key_of(word) != error.key]
            if run_mode != RunMode.MULTIRUN or words == overrides:  # no typed word has the key
                raise
            config = self.load_configuration(config_name, words, *flags)
            task = [w for w in overrides if not w.lstrip("+~").startswith(("hydra.", "hydra/"))]
            config.hydra.overrides.task = task
        return config

    def parsed(self, words: Sequence[str]) -> list[Override]:
        """Parse overrides, including those that sweep over the files of a group."""
        with self.explained(words):
            return OverridesParser.create(self).parse_overrides(list(words))

    def load_file(self, group: str, name: str) -> DictConfig:
        """One file of a group and the files of its defaults list, without the rest of conf/."""
        repository = CachingConfigRepository(self.repository)
        with self.explained([f"{group}={name}"]):
            defaults = create_defaults_list(repository, f"{group}/{name}", [], False, False)
            return self._compose_config_from_defaults_list(defaults.defaults, repository)

    def choices(self, group: str, words: Sequence[str] = ()) -> list[str]:
        """The choices of a group, such as ``attention/prior``; none if there is no such group.

        ``words`` are overrides, of which ``hydra.searchpath`` names further folders.
        """
        places = [word for word in words if word.startswith("hydra.searchpath=")]
        names = self.get_group_options(group, config_name=CONFIG, overrides=places)
        return [name for name in names if not name.startswith("_")]

    def _check_choices(self, words: Sequence[str]) -> None:
        """Refuse several files of a group, which Hydra would mix, and unknown presets, which it
        would ignore."""
        for word in words:
            key, _, name = word.lstrip("+").partition("=")
            if key == "experiment" and "," in name:
                raise LabError(
                    f"{word}: one preset at a time. Run them one after another; what two have in "
                    "common is computed once"
                )
            if name.startswith("[") and self.repository.group_exists(key.partition("@")[0]):
                raise LabError(
                    f"{word}: one file of conf/{key} without brackets; -m sweeps over several, as "
                    f"in -m {key}={name.strip('[]')}"
                )
            if key != "experiment" or name in ("null", *names(key)):
                continue
            if name not in (presets := self.choices(key, words)):
                raise unknown(key, name, presets)

    @contextmanager
    def explained(self, words: Sequence[str]) -> Iterator[None]:
        """Turn all errors of Hydra into a `LabError`."""
        try:
            yield
        except LabError:
            raise
        # A malformed yaml can raise any error in Hydra's code, AssertionError included.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system, which names the file
            raise self._suggestion(error, words) or _in_one_line(error, words) from error

    def _suggestion(self, error: Exception, words: Sequence[str]) -> LabError | None:
        """An error with the nearest names, if Hydra says which name is unknown."""
        if isinstance(error, RecursionError):
            text = " ".join(words)
            return LabError(f"{text}: the defaults list of a yaml leads back to that yaml")
        added = [word for word in words if word.startswith("+") and not word.startswith("++")]
        for word in added:
            group = word[1:].partition("=")[0]
            if self.choices(group):
                return LabError(f"{word}: leave out the plus; {group} already has a choice")
        if str(error).startswith("Config group override must be"):  # the value is a number or null
            for group, _, name in (word.partition("=") for word in words):
                if (choices := self.choices(group, words)) and name not in choices:
                    return unknown(group, name, choices)
        if isinstance(error, MissingConfigException) and error.missing_cfg_file:
            group, _, name = error.missing_cfg_file.rpartition("/")
            pairs = [word.partition("=") for word in words]
            typed = any(key.partition("@")[0] == group and name in value for key, _, value in pairs)
            choices = [option for option in error.options or () if not option.startswith("_")]
            return unknown(group, name, choices) if typed else None
        for cause in (error, error.__cause__):
            if isinstance(cause, ConfigAttributeError | ConfigKeyError):
                return _unknown_key(cause, words, self.list_groups(""))
        return None


def key_of(word: str) -> str:
    """The key of an override, without ``+`` and ``~``."""
    return word.partition("=")[0].lstrip("+~")


def _unknown_key(
    error: ConfigAttributeError | ConfigKeyError, words: Sequence[str], groups: Sequence[str]
) -> UnknownKey:
    """An error that suggests the nearest keys in the same mapping, or the same name elsewhere."""
    key = str(error.full_key)
    typed = next((k for k in map(key_of, words) if f"{k}.".startswith(f"{key}.")), key)
    if typed in MOVED:
        return UnknownKey(typed, f"unknown key '{typed}'; {MOVED[typed]}")
    first = key.partition(".")[0]
    if first in PLACES:
        place = typed.replace(first, PLACES[first], 1)
        return UnknownKey(typed, f"unknown key '{typed}'; did you mean {place}?")
    node = error.parent_node
    present = isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
    content: Any = OmegaConf.to_container(node) if present else {}
    prefix = key.rpartition(".")[0]
    keys = {f"{prefix}.{name}".lstrip(".") for name in [*content, *(() if prefix else groups)]}
    same_name = [
        f"{prefix}.{place}".lstrip(".")
        for place, _ in leaves(content, lists=False)
        if place.rpartition(".")[2] == typed.rpartition(".")[2] and not place.startswith("hydra.")
    ]
    if same_name:
        listed = " or ".join(same_name[:3])
        return UnknownKey(typed, f"unknown key '{typed}'; did you mean {listed}?")
    if not keys:
        return UnknownKey(typed, f"unknown key '{typed}': {prefix} has no keys with these choices")
    return UnknownKey(typed, unknown("key", typed, keys - {"hydra"}))


def _in_one_line(error: Exception, words: Sequence[str]) -> LabError:
    """Hydra's message and its cause in one line, with the overrides if neither names one."""
    text, cause = (" ".join(str(part or "").split()) for part in (error, error.__cause__))
    text = text if cause in text else f"{text}; {cause}".lstrip("; ")
    text = text or f"{type(error).__name__} in its yaml"
    if isinstance(error, OverrideParseException):
        return LabError(_unparsed(error.override, text, words))
    if "integer string conversion" in text:  # a number of more digits than Python reads
        words = [max(words, key=len)]
    if any(word in text for word in words):
        return LabError(text)
    where = " ".join(words)
    return LabError(f"{where if len(where) <= 200 else f'{where[:197]}...'}: {text}")


def _unparsed(word: str, text: str, words: Sequence[str]) -> str:
    """The message for a word that is no override, with a hint if it needs quotes."""
    key, equals, value = word.partition("=")
    before = words[words.index(word) - 1] if word in words[1:] else ""
    group, colon, choice = word.partition(":")
    if not equals and colon and names(group.partition(".")[0]):
        return f"'{word}' is no KEY=VALUE; write {group}={choice.strip()}"
    if not equals and "=" in before:  # a value with a space, which the shell has split
        key, _, value = before.partition("=")
        value = f"{value} {word}"
        text = f"'{word}' is no KEY=VALUE"
    quotes = f"""; a value with such signs is quoted twice: '{key}="{value}"'"""
    plain = key and value and value[0] not in "[{" and '"' not in value and "'" not in value
    return f"{word if equals else key}: {text}{quotes if plain else ''}"


def composed(*overrides: str) -> DictConfig:
    """conf/config.yaml with overrides of a command line, including Hydra's own section."""
    return _cached(None, overrides, _stamps()).copy()


def alone(group: str, name: str) -> DictConfig:
    """One file of a group and the files of its defaults list, without the rest of conf/."""
    return _cached(group, (name,), _stamps()).copy()


def _stamps() -> tuple[tuple[Path, int], ...]:
    """All yaml files with their times, which differ once a file of conf/ has changed."""
    files = (path for folder in folders() for path in folder.rglob("*.yaml"))
    return tuple(sorted((path, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=512)
def _cached(group: str | None, words: tuple[str, ...], stamps: object) -> DictConfig:
    """Compose the file ``words[0]`` of a group, or without a group conf/config.yaml with overrides.
    Callers must copy the result before they change it."""
    if group is not None:
        config = Loader().load_file(group, *words)
    else:
        config = Loader().load_configuration(CONFIG, list(words), RunMode.RUN, from_shell=False)
    guard.check_values(config)
    return config
