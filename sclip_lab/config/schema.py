"""The keys of conf/config.yaml, and what each may hold.

Of the groups of a cell (attention, backbone, dataset, protocol, guidance) only the type is checked
here. The objects that are built from them check their values.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import LARGEST_SEED, check, leaves, shown, within

LONGEST_NAME = 255  # bytes of a file's or folder's name
# Groups of a cell. The objects that are built from them report missing values.
PARTS = ("attention", "backbone", "dataset", "protocol", "guidance")
# Groups whose keys are listed below.
SECTIONS = ("pictures", "diagnostics", "tracking", "paths")
COUNT = (0, 10**9)
# Key -> its type, and the least and largest number.
KEYS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys((*PARTS, *SECTIONS, "readout", "refinement"), (Mapping | None,)),
    "pictures.images": (int, *COUNT),
    "pictures.points": (int, 0, 1000),
    "diagnostics.measures": (list[str] | None,),
    "diagnostics.images": (int | None, *COUNT),
    "diagnostics.layers": (bool,),
    "tracking.mode": (str,),
    "tracking.group": (str | None,),
    "tracking.images": (int, 0, 10**6),
    "tracking.project": (str | None,),
    "tracking.entity": (str | None,),
    "paths.store": (str,),
    "paths.data": (str,),
    "pretrained": (str | None,),
    "checkpoint": (str | None,),
    "precision": (str,),
    "device": (str,),
    "seed": (int, 0, LARGEST_SEED),
    "batch_images": (int | None, 1, 65_536),
    "batch_windows": (int | None, 1, 65_536),
    "trunk_cache": (float, 0, 1e9),
    "shard": (tuple[int, int],),
    "on_error": (str,),
    "progress": (bool,),
    "plugins": (list[str] | None,),
}
OPTIONAL = ("guidance", "readout", "refinement", "diagnostics.layers", "tracking.project",
            "tracking.entity")  # fmt: skip


def check_settings(config: DictConfig) -> dict[str, Any]:
    """Check a composed configuration.

    Returns:
        the configuration without Hydra's own section, as plain values.

    Raises:
        LabError: a value of a wrong type or range, or a reference to a key that does not exist.
    """
    for key in (*PARTS, *SECTIONS):  # other keys refer to values in these
        group = config.get(key)
        if not OmegaConf.is_dict(group) and (group is not None or key not in OPTIONAL):
            raise LabError(
                f"{key}: {shown(group)} must be a mapping, or a file of its folder in conf"
            )
    ours: Any = OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"])
    try:
        values: Any = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise LabError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    for key, value in leaves(values):
        group, dot, _ = key.partition(".")
        if value == "???" and not (dot and group in PARTS):
            raise LabError(f"{key}: needs a value; '???' only marks its place")
    for key in KEYS:
        _check(key, values)
    for section in ("", *SECTIONS):
        _refuse_slips(section, values)
    check("protocol.expected", values["protocol"].get("expected"), list[dict[str, Any]] | None)
    for group in PARTS:
        name = (values.get(group) or {}).get("name", "???")
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise LabError(f"{group}.name: {shown(name)} must be text")
    index, count = values["shard"]
    if not 0 <= index < count:
        raise LabError(
            f"shard: {values['shard']} must be index and count, the index below the count"
        )
    weights, of_backbone = values["checkpoint"], values["backbone"].get("checkpoint")
    if weights not in (None, of_backbone):
        raise LabError(
            f"checkpoint={shown(weights)}: this backbone has a file of its own; replace it by "
            "backbone.checkpoint=<file>"
        )
    return dict(values)


def _check(key: str, values: Mapping[str, Any]) -> None:
    """Check one of `KEYS`."""
    section, dot, name = key.rpartition(".")
    node = values[section] if dot else values
    if name not in node:
        if key not in OPTIONAL:
            raise LabError(f"{key}: needs a value")
        return
    annotation, *ends = KEYS[key]
    check(key, node[name], annotation)
    if ends and node[name] is not None:
        within(f"{key}:", node[name], *ends)
    if section == "paths" and not _is_path(node[name]):
        raise LabError(f"{key}: {shown(node[name])} must be the path of a folder")


def _is_path(text: str) -> bool:
    try:
        longest = max(len(part) for part in os.fsencode(text).split(os.sep.encode()))
    except UnicodeEncodeError:
        return False
    return bool(text.strip()) and "\0" not in text and longest <= LONGEST_NAME


def _refuse_slips(section: str, values: Mapping[str, Any]) -> None:
    """Refuse a key that nearly equals one of `KEYS`: a slip, which would be ignored silently. Other
    keys are allowed, because a preset may define one for its own interpolations."""
    places = [key.rpartition(".") for key in KEYS]
    keys = [name for place, _, name in places if place == section]
    for key in map(str, values[section] if section else values):
        if key not in keys and difflib.get_close_matches(key, keys, cutoff=0.75):
            error = unknown("key", key, keys)
            raise LabError(f"{section}: {error}") if section else error
