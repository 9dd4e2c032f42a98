"""The configuration directory is the registry: names of yaml files to objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.attention.variant import Variant, build
from sclip_lab.errors import LabError, unknown

NESTED = ("prior", "mix", "repair")


def conf_dir() -> Path:
    """The directory of yaml files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def names(group: str) -> list[str]:
    """The choices of a config group; files that start with an underscore are shared parts."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml") if p.stem[0] != "_")


def load_group(group: str, name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One yaml of a group, defaults composed, overridden and resolved.

    Args:
        group: for example ``attention``.
        name: a file's stem in it.
        overrides: values to replace; mappings are merged.

    Raises:
        LabError: unknown name (did you mean), or a yaml that does not compose.
    """
    if name not in names(group):
        raise unknown(group, name, names(group))
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose(overrides=[f"+{group}={name}", "+paths=default"])
        container = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise LabError(f"{group} '{name}': {error}") from error
    assert isinstance(container, dict)
    return _overridden(container[group], overrides or {})


def _overridden(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with other values; two mappings are merged, anything else is replaced."""
    result = dict(config)
    for key, value in overrides.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        result[key] = _overridden(old, value) if both else value
    return result


def load_attention(name: str, **overrides: Any) -> Variant:
    """A variant of ``conf/attention``.

    >>> load_attention("csa", temperature=0.5, residual=False).config["temperature"]
    0.5

    Args:
        name: a file of conf/attention, without its ending.
        **overrides: its keys with other values. ``prior``, ``mix`` and ``repair`` also take the
            name of a file in conf/attention/prior, mix and repair.

    Raises:
        LabError: unknown name, key or value.
    """
    for key in NESTED:
        part = overrides.get(key)
        if isinstance(part, str):
            overrides[key] = load_part(key, part)
    return build(load_group("attention", name, overrides), name)


def load_part(kind: str, name: str) -> dict[str, Any]:
    """A file of conf/attention/prior, mix or repair."""
    known = names(f"attention/{kind}")
    if name not in known:
        raise unknown(kind, name, known)
    loaded = OmegaConf.load(conf_dir() / "attention" / kind / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return OmegaConf.to_container(loaded)  # type: ignore[return-value]
