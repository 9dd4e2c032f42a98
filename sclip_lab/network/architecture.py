"""open_clip's description of a network: from a file, or from the shapes of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip_lab.core.errors import LabError
from sclip_lab.core.values import within

LARGEST = 1_000_000  # bytes of a file
MOST = {"layers": 1000}  # other sizes are smaller than 2^21
NEEDED = {"embed_dim", "vision_cfg", "text_cfg"}
# Keys that load a model of a hub.
HUB = ("hf_model_name", "hf_model_pretrained", "timm_model_pretrained")


def infer_architecture(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Infer open_clip's model config of a ViT from weights in OpenAI's layout.

    In every CLIP of OpenAI, heads of both towers have 64 channels; in other networks in the same
    layout they may not.

    Raises:
        LabError: a weight whose shape is needed is missing.
    """
    shape = {key: tuple(value.shape) for key, value in state_dict.items()}
    try:
        width, _, patch, _ = shape["visual.conv1.weight"]
        positions = shape["visual.positional_embedding"][0] - 1
        text_width = shape["ln_final.weight"][0]
        vocab_size = shape["token_embedding.weight"][0]
        context_length = shape["positional_embedding"][0]
        embed_dim = shape["text_projection"][1]
        if min(width, patch, text_width, vocab_size, context_length, embed_dim) < 1:
            raise ValueError("a size of 0")
    except (KeyError, ValueError, IndexError) as error:
        raise LabError(
            f"the state dict is not that of a ViT in OpenAI's layout: {error} is missing or of "
            "another rank; name its architecture"
        ) from None
    side = round(positions**0.5)
    if side * side != positions:
        raise LabError(f"visual.positional_embedding has {positions} patches, not a square grid")

    def layers(prefix: str) -> int:
        names = [key.removeprefix(prefix) for key in shape if key.startswith(prefix)]
        return len({name.partition(".")[0] for name in names})

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
    """Read open_clip's model config from a JSON file.

    Raises:
        LabError: there is no such file, it is too large for one, or it holds no JSON mapping.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError(f"no file of at most {LARGEST} bytes")
        architecture = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"architecture file {path}: {error}") from error
    if not isinstance(architecture, dict):
        raise LabError(f"architecture file {path}: must be a mapping, as open_clip's configs are")
    return architecture


def check_architecture(architecture: Mapping[str, Any], source: str, local: bool = False) -> None:
    """Check that a model config for open_clip, made by others, loads nothing from a hub. ``local``
    allows a text tower whose configuration is in a local folder.

    Raises:
        LabError: a part is missing or no mapping, a number is out of range, or a part names a model
            of a hub, whose files are not read as carefully as a checkpoint here.
    """
    if not set(architecture) >= NEEDED:
        raise LabError(f"{source} lacks {', '.join(sorted(NEEDED - set(architecture)))}")
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(architecture[part], Mapping):
            raise LabError(f"{source}: {part} {architecture[part]!r} must be a mapping")
        for key, value in architecture[part].items():
            if isinstance(value, int | float):
                within(f"{source}: {part}.{key}", value, -1, MOST.get(key, 2**21))
            if local and key == "hf_model_name" and Path(str(value)).is_dir():
                continue
            hub = key.endswith("model_name") and isinstance(value, str) and {*":/"} & {*value}
            if value and (hub or key in HUB):
                raise LabError(
                    f"{source}: {part}.{key} {value!r} loads a model of a hub; give its weights "
                    "as checkpoint=<file>"
                    + (", its configuration as text_folder=<folder>" if key in HUB[:1] else "")
                )
