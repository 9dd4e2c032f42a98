"""Values of the configuration that no object of their own checks: how a run is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.config.plain_config import plain_config
from sclip_lab.core.errors import LabError
from sclip_lab.core.values import check, shown, within

LONGEST_NAME = 255  # bytes of a file's or folder's name
# Type, smallest and largest value, by key.
_NUMBERS: dict[str, tuple[Any, float, float]] = {
    "seed": (int, 0, 2**63 - 1),
    "batch_images": (int | None, 1, 65_536),
    "batch_windows": (int | None, 1, 65_536),
    "trunk_cache": (float, 0, 1e9),
    "pictures.images": (int, 0, 1e9),
    "pictures.points": (int, 0, 1_000),
    "diagnostics.images": (int | None, 0, 1e9),
    "tracking.images": (int, 0, 1e6),
}
_OTHERS: dict[str, Any] = {
    "pretrained": str | None,
    "checkpoint": str | None,
    "precision": str,
    "device": str,
    "progress": bool,
    "diagnostics.measures": Sequence[str] | None,
    "plugins": Sequence[str] | None,
    "paths.data": str,
    "paths.store": str,
    "tracking.mode": str,
    "tracking.project": str | None,
    "tracking.group": str | None,
    "tracking.entity": str | None,
}
_GROUPS = ("attention", "backbone", "dataset", "protocol", "guidance", "readout", "refinement",
           "diagnostics", "tracking", "paths", "pictures")  # fmt: skip
# Whose missing values those say that know what they are for.
_PARTS = ("attention", "backbone", "dataset", "protocol", "guidance")
_OPTIONAL = ("guidance", "readout", "refinement")
_NEEDED = ("attention", "backbone", "dataset", "protocol", "paths.store", "pictures.images",
           "pictures.points", "diagnostics.measures", "diagnostics.images", "tracking.mode",
           "tracking.group", "tracking.images")  # fmt: skip


def check_settings(config: DictConfig) -> dict[str, Any]:
    """Refuse values of a composed configuration that cannot be meant.

    Returns:
        its groups as plain values.

    Raises:
        LabError: naming key, value and what would be right; also for a group that was replaced
            by a single value, and an interpolation that leads nowhere.
    """
    for group in _GROUPS:  # before references to their values are followed
        node = config._get_node(group, validate_access=False)
        if isinstance(node, ListConfig) or (isinstance(node, AnyNode) and node._is_missing()):
            raise LabError(f"{group}: must be a mapping, or a file of conf/{group}")
    plain: dict[str, Any] = {}  # a look at a node takes as long as many at a dict
    for group in _GROUPS:
        value = _found(config, group)
        if value is _MISSING:
            continue
        plain[group] = value
        empty = value is None and group not in _OPTIONAL
        if empty or (value is not None and not isinstance(value, Mapping)):
            raise LabError(f"{group}: {shown(value)} must be a mapping, or a file of conf/{group}")
    for key in _still_missing(config):
        raise LabError(f"{key}: '???' stands for a value that is still to be given")
    plain |= {key: _found(config, key) for key in (*_NUMBERS, *_OTHERS, "shard") if "." not in key}
    for key in _NEEDED:
        if _found(plain, key) is _MISSING:
            raise LabError(f"{key}: needs a value")
    for key, (wanted, low, high) in _NUMBERS.items():
        value = _found(plain, key)
        if value is _MISSING:
            continue
        check(key, value, wanted)
        if value is not None:
            within(key, value, low, high)
    for key, wanted in _OTHERS.items():
        value = _found(plain, key)
        if value is not _MISSING:
            check(key, value, wanted)
    for key in ("paths.data", "paths.store"):
        value = _found(plain, key)
        if isinstance(value, str) and not _is_path(value):
            raise LabError(f"{key}: {shown(value)} must be the path of a folder")
    weights, used = _found(plain, "checkpoint"), _found(plain, "backbone.checkpoint")
    if weights not in (_MISSING, None) and used != weights:
        raise LabError(
            f"checkpoint={shown(weights)}: this backbone has a file of its own; "
            "backbone.checkpoint=<file> takes its place"
        )
    shard = _found(plain, "shard")
    if shard is not _MISSING:
        check("shard", shard, tuple[int, int])
        within("shard[1]", shard[1], 1, 1e9)
        within("shard[0]", shard[0], 0, shard[1], below=True)
    return {group: plain[group] for group in _GROUPS if group in plain}


def _still_missing(config: DictConfig) -> Iterator[str]:
    """Keys with ``???``; of the parts of a cell, those say so that know what they are for."""
    for key, value in OmegaConf.to_container(config).items():  # type: ignore[union-attr]
        if key not in ("hydra", *_PARTS) and "???" in _flat(value):
            yield str(key)


def _flat(value: Any) -> list[Any]:
    """What a nested value holds in the end."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [one for part in inner for one in _flat(part)]
    return [value]


def _is_path(text: str) -> bool:
    """Whether a file system could have it."""
    try:
        parts = os.fsencode(text).split(os.sep.encode())
    except UnicodeEncodeError:
        return False
    return bool(text.strip()) and "\0" not in text and max(map(len, parts)) <= LONGEST_NAME


_MISSING: Any = object()


def _found(config: Mapping[str, Any] | DictConfig, key: str) -> Any:
    """A plain value; `_MISSING` where there is none of that name, or ``???``."""
    value: Any = config
    try:
        for part in key.split("."):
            if not isinstance(value, Mapping | DictConfig) or part not in value:
                return _MISSING
            value = value[part]
        return _MISSING if value == "???" else plain_config(value)
    except OmegaConfBaseException as error:
        raise LabError(f"{key}: {str(error).splitlines()[0]}") from error
