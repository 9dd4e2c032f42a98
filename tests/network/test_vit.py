"""timm's ViT as a backbone without text, against timm's own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.vit import load_vit
from tests import toy

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_token": False, "global_pool": "avg"},  # the last norm is then fc_norm
        {"no_embed_class": True, "init_values": 0.1},
        {"pre_norm": True, "qkv_bias": False},
    ],
    ids=str,
)
def test_tokens_are_timms(options: dict[str, Any]) -> None:
    vit = load_vit("vit_tiny_patch16_224", device="cpu", options=SMALL | options)
    generator = torch.Generator().manual_seed(0)
    for parameter in vit.model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        tokens = vit.model.fc_norm(vit.model.forward_features(images))
        whole = vit.model(images)
    prefix = vit.tower.prefix
    ours = toy.encoded(vit, images, load_attention("vanilla"))
    torch.testing.assert_close(ours.patches.flatten(1, 2), tokens[:, prefix:])
    torch.testing.assert_close(ours.class_embedding, whole)
    assert (vit.has_class_token, vit.embed_dim, vit.has_text) == (prefix == 1, 32, False)


def test_weights_are_seeded_or_a_local_files(tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "options": SMALL}
    first, again, other = (
        load_vit("vit_tiny_patch16_224", seed=seed, **options) for seed in (0, 0, 1)
    )
    assert first.key == again.key != other.key
    assert first.description["seed"] == 0
    file = tmp_path / "weights.safetensors"
    save_file(dict(other.model.state_dict()), file)
    loaded = load_vit("vit_tiny_patch16_224", checkpoint=file, **options)
    assert loaded.key == other.key
    assert loaded.description["seed"] is None
    with pytest.raises(LabError, match=r"weights\.safetensors does not fit backbone vit_small"):
        load_vit("vit_small_patch16_224", checkpoint=file, device="cpu", options={"depth": 2})


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("vit_tiny_patch16_24", {}, "unknown backbone 'vit_tiny_patch16_24'.*did you mean"),
        ("resnet18", {}, "its ResNet of timm is no plain vision transformer"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "DiffAttention, subtracts"),
    ],
)
def test_what_is_no_plain_vit_is_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        load_vit(name, device="cpu", options=(SMALL | options) if "vit" in name else options)
    with pytest.raises(LabError, match="unknown pretrained tag of vit_tiny_patch16_224"):
        load_vit("vit_tiny_patch16_224", "augreg_in21", device="cpu")
