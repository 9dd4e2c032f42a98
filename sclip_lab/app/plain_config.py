"""Hydra's configuration nodes as plain values, for those that know nothing of Hydra."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf


def plain_config(node: Any) -> Any:
    """Nodes, also those within a dict, as dict and list with interpolations resolved."""
    if isinstance(node, dict):
        return {key: plain_config(value) for key, value in node.items()}
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
