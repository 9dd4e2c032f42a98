"""open_clip's description of a network: from a file, or from the shapes of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip_lab.errors import LabError


def infer_architecture(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's model config of a ViT whose weights have OpenAI's names.

    Heads are 64 wide in every CLIP of OpenAI, on both towers.

    Raises:
        LabError: a weight that tells the shape is missing.
    """
    shape = {key: tuple(value.shape) for key, value in state_dict.items()}
    try:
        width, _, patch, _ = shape["visual.conv1.weight"]
        positions = shape["visual.positional_embedding"][0] - 1
        text_width = shape["ln_final.weight"][0]
        vocab_size = shape["token_embedding.weight"][0]
        context_length = shape["positional_embedding"][0]
        embed_dim = shape["text_projection"][1]
    except (KeyError, ValueError) as error:
        raise LabError(
            f"the state dict is not that of a ViT in OpenAI's layout: {error} is missing or of "
            "another rank; name its architecture"
        ) from None
    side = round(positions**0.5)
    if side * side != positions:
        raise LabError(f"visual.positional_embedding has {positions} patches, not a square grid")

    def layers(prefix: str) -> int:
        indices = [key.split(".resblocks.")[1] for key in shape if key.startswith(prefix)]
        return 1 + max((int(index.split(".")[0]) for index in indices), default=-1)

    return {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": side * patch,
            "layers": layers("visual.transformer.resblocks."),
            "width": width,
            "head_width": 64,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": max(text_width // 64, 1),
            "layers": layers("transformer.resblocks."),
        },
    }


def read_architecture(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LabError(f"architecture file {path}: {error}") from error
