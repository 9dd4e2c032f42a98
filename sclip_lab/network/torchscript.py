"""TorchScript archives, in which OpenAI published its CLIPs.

`torch.jit.load` runs code that lies in the archive. So it is called for OpenAI's own files alone,
which are known by their sha256: it is a part of the addresses that open_clip downloads them from.
"""

from __future__ import annotations

import hashlib
import io
import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError

CONVERT = 'torch.save(torch.jit.load("archive.pt", "cpu").state_dict(), "weights.pt")'


@cache
def openai_digests() -> frozenset[str]:
    """Return the sha256 of the archives that OpenAI published, from open_clip's download
    addresses."""
    import open_clip  # slow, and not needed for other checkpoints

    addresses = [
        open_clip.get_pretrained_url(name, "openai")
        for name in open_clip.list_models()
        if "openai" in open_clip.list_pretrained_tags_by_model(name)
    ]
    return frozenset(re.findall(r"/([0-9a-f]{64})/", " ".join(addresses)))


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read parameters and buffers by name.

    Raises:
        LabError: the file is not one of OpenAI's.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() not in openai_digests():
        raise LabError(
            f"checkpoint {path} is a TorchScript archive and not one of those that OpenAI "
            "published. Archives hold code, which is not run here. If you trust whoever made it, "
            f"convert it elsewhere: {CONVERT}"
        )
    # The bytes that were hashed, whatever happens to the file meanwhile.
    weights: dict[str, Tensor] = torch.jit.load(io.BytesIO(content), "cpu").state_dict()
    return weights
