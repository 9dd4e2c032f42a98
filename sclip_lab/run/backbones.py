"""Backbones from configurations: each is made once, and not built where its store knows it."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

from sclip_lab.config.registry import backbone_loader
from sclip_lab.core.call import bind
from sclip_lab.core.errors import LabError
from sclip_lab.network import kept
from sclip_lab.network.backbone import Backbone


@cache
def make_backbone(config: str, root: str) -> Backbone:
    """One backbone per configuration, however many jobs use it. One that the store ``root`` knows
    is built when its network is asked for.

    Raises:
        LabError: a value that cannot be meant.
    """
    known = kept.known(_stamp(config), Path(root))
    if known is None:
        return _built(config)
    return kept.KeptBackbone(known, partial(_built, config))


def remember(backbone: Backbone, config: str, root: str) -> None:
    """Let a store know a backbone that `make_backbone` has built."""
    if not isinstance(backbone, kept.KeptBackbone):
        kept.remember(backbone, json.loads(config), _stamp(config), Path(root))


@cache
def _stamp(config: str) -> str | None:
    return kept.stamp(json.loads(config))


@cache
def _built(config: str) -> Backbone:
    try:
        given = json.loads(config)
        given.pop("usual", None)  # what its tag was unless one was typed
        return bind(backbone_loader(given.pop("_target_", None)), given, ("state_dict",))()
    except LabError as error:
        raise LabError(f"backbone: {error}") from error
