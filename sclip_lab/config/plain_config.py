"""Hydra's configuration nodes as plain values, for those that know nothing of Hydra."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sclip_lab.core.errors import LabError


def plain_config(node: Any) -> Any:
    """Nodes, also those within a dict, as dict and list with interpolations resolved.

    Raises:
        LabError: an interpolation that leads nowhere.
    """
    if isinstance(node, dict):
        return {key: plain_config(value) for key, value in node.items()}
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise LabError(f"configuration: {str(error).splitlines()[0]}") from error
