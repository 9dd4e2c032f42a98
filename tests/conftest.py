"""What many tests share: a small random CLIP, quick to build and to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tests.shapes  # noqa: F401  # isort: skip  # before what it checks is imported
import pytest
import torch
from torch import Tensor

from sclip_lab.data.folder import Folder
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.protocol import Protocol
from tests.photos import folder, write

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "layers": 4,
        "width": 64,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="session")
def architecture() -> dict[str, Any]:
    """open_clip's config of `backbone`: 4 blocks, 4 heads, 4 x 4 patches of 16 px."""
    return ARCHITECTURE


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """A random CLIP whose biases are not zero, so that a forgotten one shows."""
    small = load_backbone(architecture=ARCHITECTURE, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in small.model.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return small


@pytest.fixture(scope="session")
def images() -> Tensor:
    """(2, 3, 96, 128) normalised images: a grid of 6 x 8 patches, higher than trained on."""
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def photos(tmp_path: Path) -> Folder:
    """Three photos of different sizes with five classes, in a folder of their own."""
    return folder(write(tmp_path / "photos"))


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    """Windows of the small CLIP's own size, and one prompt, so that text is quick."""
    return Protocol(
        name="small", short_side=None, crop_size=64, stride=32, templates=("a photo of {}",)
    )
