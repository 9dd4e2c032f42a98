"""open_clip's named networks with two narrow blocks and weights of our own, as if downloaded."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from torch import Tensor

SIZES = {"layers": 2, "width": 64}


def shrink(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let open_clip build `name` with two blocks of width 64. What else its file says stays."""
    config: dict[str, Any] = deepcopy(factory._MODEL_CONFIGS[name])
    config["embed_dim"] = 48
    config["vision_cfg"] |= {**SIZES, "image_size": 64, "head_width": 32}
    config["text_cfg"] |= {**SIZES, "heads": 2}
    monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> dict[str, Tensor]:
    """Random weights of the shrunk network, which open_clip takes for a download of any tag."""
    torch.manual_seed(3)
    weights = open_clip.create_model(name, pretrained_text=False).state_dict()
    weights = {
        key: value + 0.05 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in weights.items()
    }
    torch.save(weights, path)
    monkeypatch.setattr(factory, "download_pretrained", lambda *given, **options: str(path))
    return weights
