"""Networks planned without memory for their weights, to look at their parts and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Functions that draw or scale initial values in place. Tensors without memory have no values.
FILLING = {
    *("uniform_", "normal_", "trunc_normal_", "erfinv_", "zero_", "fill_", "constant_"),
    *("mul_", "add_", "sub_", "div_", "clamp_"),
}


class _WithoutValues(TorchFunctionMode):
    """Skip filling new weights, which takes most of the time on torch's meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in FILLING and args and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


@contextmanager
def planning() -> Iterator[None]:
    """A context in which new modules have shapes but no values, so that any size is possible."""
    with torch.device("meta"), _WithoutValues():
        yield


def planned_clip(config: Mapping[str, Any], quick_gelu: bool | None) -> Any:
    """Build the image tower of an open_clip network without memory for its weights.

    Args:
        config: open_clip's model config.
        quick_gelu: replaces the config's value, unless it is None.
    """
    vision = {**config["vision_cfg"]}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if quick_gelu is None:
        quick_gelu = config.get("quick_gelu", False)
    width = config["embed_dim"]
    planned = nn.Module()
    with planning():
        planned.visual = open_clip.model._build_vision_tower(width, vision, quick_gelu)
    return planned
