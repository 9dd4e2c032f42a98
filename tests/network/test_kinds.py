"""One network of each kind of tower against its library's own forward pass, and CSA by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.precision import lower_precision
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.encoded import encode
from tests import toy
from tests.network.small_networks import (
    attention_replaced,
    csa,
    own_features,
    photos,
    relative_error,
    small_clip,
    small_vit,
)

pytestmark = pytest.mark.usefixtures("quiet")
EXACT = 5e-6
PLAIN = "vit_tiny_patch16_224"
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "registers": (PLAIN, {"reg_tokens": 3}),
    "registers alone": (PLAIN, {"reg_tokens": 3, "class_token": False, "global_pool": "avg"}),
    "norms of query and key": (PLAIN, {"qk_norm": True}),
    "norms inside": (PLAIN, {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "no position": (PLAIN, {"pos_embed": "none"}),
    "attention pool": ("vit_base_patch16_siglip_224", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "SwiGLU": ("vit_giant_patch14_dinov2", {}),
    "AIMv2": ("aimv2_large_patch14_224", {}),
    "BEiT-3": ("beit3_base_patch16_224", {}),
    "EVA": ("eva_giant_patch14_224", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {}),
    "EVA-02 behind": ("eva02_enormous_patch14_clip_224", {}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "PE-Core": ("vit_pe_core_tiny_patch16_384", {}),
    "PE-Spatial": ("vit_pe_spatial_tiny_patch16_512", {}),
    "rotation a layer": ("vit_small_patch16_rope_mixed_224", {}),
    "grouped queries": ("vit_base_patch16_sapiens2", {}),
    "BEiT": ("beit_base_patch16_224", {}),
    "relative": ("vit_relpos_small_patch16_224", {}),
    "relative behind": ("vit_relpos_base_patch32_plus_rpn_256", {}),
    "shared relative": ("vit_srelpos_small_patch16_224", {}),
    "norms behind": ("vit_base_patch16_rpn_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "NaFlex": ("naflexvit_base_patch16_gap", {}),
    "position by axis": ("naflexvit_base_patch16_parfac_gap", {}),
    "parallel": ("vit_base_patch16_xp_224", {}),
    "parallel with bias": ("vit_base_patch16_xp_224", {"qkv_bias": True}),
    "VOLO": ("volo_d1_224", {}),
    "SAM": ("samvit_base_patch16", {}),
    "SAM without convolutions": ("samvit_base_patch16_224", {}),
    "Qwen": ("qwen3_vit_88m", {}),
    "Qwen projected": ("qwen3_vit_88m_merge", {}),
    "Qwen's encoder": ("qwen3_vit_88m_enc", {}),
    "DeepSeek": ("deepseek_vit_412m", {}),
    "DeepSeek projected": ("deepseek_vit_412m_align", {}),
    "DeepSeek's encoder": ("deepseek_vit_412m_enc", {}),
    "Gemma": ("gemma4_vit_167m", {}),
    "Gemma pooled": ("gemma4_vit_570m", {"encoder_pool": "soft"}),
    "Gemma's encoder": ("gemma4_vit_570m_enc", {}),
}
CLIP = {
    "class token": "ViT-B-16",
    "mean": "ViT-H-14-CLIPA",
    "CoCa": "coca_ViT-B-32",
    "SigLIP": "ViT-B-16-SigLIP",
    "PE-Core": "PE-Core-S-16-384",
    "EVA-02": "EVA02-B-16",
    "convolutions": "MobileCLIP-B",
    "mean without class token": "vit_medium_patch16_gap_256",
}


def compare(backbone: Backbone) -> None:
    images = photos(backbone)
    patches, whole = own_features(backbone, images)
    whole_map = backbone.blocks[0].has_map
    # Fused blocks; and all of them rewritten, where all see the whole image.
    for layers in ([-1], "last 2") if whole_map else ([-1],):
        ours = toy.encoded(backbone, images, load_attention("vanilla", layers=layers))
        assert relative_error(ours.patches.flatten(1, 2), patches) < EXACT
        assert relative_error(ours.class_embedding, whole) < EXACT
    with attention_replaced(backbone.blocks[-1].module, csa):
        patches, whole = own_features(backbone, images)
    ours = toy.encoded(backbone, images, load_attention("csa"))
    assert relative_error(ours.patches.flatten(1, 2), patches) < EXACT
    assert relative_error(ours.class_embedding, whole) < EXACT


@pytest.mark.parametrize("kind", TIMM)
def test_of_timm(kind: str) -> None:
    name, options = TIMM[kind]
    compare(small_vit(name, **options))


@pytest.mark.parametrize("kind", CLIP)
def test_of_open_clip(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small_clip(monkeypatch, CLIP[kind])
    compare(backbone)
    tokens = (
        torch.randint(1, 400, (3, 77))[:, : backbone.tokenize(["a"]).shape[1]]
        if kind in ("class token", "CoCa", "PE-Core", "EVA-02", "convolutions")
        else None
    )
    if tokens is not None:
        texts = ["a photo of a cat.", "sky", ""]
        ids = backbone.tokenize(texts)
        with torch.inference_mode():
            expected = backbone.model.encode_text(ids, normalize=False)
        assert relative_error(backbone.encode_text(texts), expected) < EXACT


@pytest.mark.parametrize("kind", ["PE-Core", "DINOv3", "EVA-02", "rotation a layer", "BEiT"])
def test_other_grids(kind: str) -> None:
    """A grid that is not the trained one, as timm's own network of that size computes it."""
    name, options = TIMM[kind]
    backbone = small_vit(name, **options)
    side = backbone.patch_size
    images = torch.randn(1, 3, 3 * side, 5 * side, generator=torch.Generator().manual_seed(2))
    other = small_vit(name, **{**options, "img_size": (3 * side, 5 * side)})
    weights = backbone.model.state_dict()
    resized = {
        key: value
        for key, value in other.model.state_dict().items()
        if key not in weights or weights[key].shape != value.shape
    }
    if resized:  # tables that depend on the size: timm's own resizing
        backbone.model.set_input_size(img_size=(3 * side, 5 * side))
        resized_model = backbone.model
        backbone = small_vit(name, **options)
        other.model.load_state_dict(resized_model.state_dict())
    else:
        other.model.load_state_dict(weights)
    patches, _ = own_features(other, images)
    ours = toy.encoded(backbone, images, load_attention("vanilla"))
    rule = "bicubic_antialias"
    [(_, ours)] = encode(backbone, images, [load_attention("vanilla")], rule)
    assert relative_error(ours.patches.flatten(1, 2), patches) < 2e-5


@pytest.mark.parametrize(
    "kind",
    [
        *("Qwen", "Qwen projected", "DeepSeek projected", "Gemma's encoder", "position by axis"),
        *("SAM", "SAM without convolutions"),
    ],
)
def test_other_grids_of_networks_for_all_sizes(kind: str) -> None:
    """As the same network of timm computes images of another size. SAM's are resized by timm's rule
    of `position_embedding`; the others' own way of resizing holds whatever the rule."""
    name, options = TIMM[kind]
    backbone = small_vit(name, **options)
    sides = 6 * backbone.patch_size, 12 * backbone.patch_size
    images = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(2))
    patches, whole = own_features(backbone, images)
    rule = "bicubic_antialias" if "SAM" in kind else "bilinear_half"
    [(_, ours)] = encode(backbone, images, [load_attention("vanilla")], rule)
    assert relative_error(ours.patches.flatten(1, 2), patches) < EXACT
    assert relative_error(ours.class_embedding, whole) < EXACT


def test_before_rotation_is_a_named_option() -> None:
    backbone = small_vit("vit_small_patch16_dinov3")
    images = photos(backbone)
    names = ("query_before_rotation", "key_before_rotation")
    after, before = (
        dense_features(backbone, images, load_attention("csa", **options))
        for options in ({}, {"projections": names})
    )
    assert not torch.allclose(after, before)
    plain = small_vit(PLAIN)  # no rotation: the same
    same = [
        dense_features(plain, photos(plain), load_attention("csa", **options))
        for options in ({}, {"projections": names})
    ]
    assert torch.equal(*same)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("attention", ["naclip", "scclip", "sfp", "resclip", "gem", "surgery"])
def test_variants_with_registers_and_rotation(name: str, attention: str) -> None:
    backbone = small_vit(name, depth=12)
    features = dense_features(backbone, photos(backbone), load_attention(attention))
    assert torch.isfinite(features).all()
    assert features.shape == (2, 4, 4, 64)


def test_a_class_token_is_closed_and_registers_are_not() -> None:
    backbone = small_vit(PLAIN, reg_tokens=3)
    variant = load_attention("csa", class_token=False)
    weights = toy.encoded(backbone, photos(backbone), variant).state.attention
    assert weights is not None
    assert (weights[:, :, 4:, 0] == 0).all()
    assert (weights[:, :, 4:, 1:4] > 0).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock, has several attentions"),
        ("vit_dwee_patch16_reg1_gap_256", "DiffAttention, subtracts"),
        ("xcit_nano_12_p16_224", "XCA, attends across channels"),
        ("maxvit_tiny_tf_224", "no plain vision transformer"),
        ("efficientvit_b0", "no plain vision transformer"),
    ],
)
def test_what_is_not_supported_is_named(name: str, says: str) -> None:
    from sclip_lab.network.vit import load_vit

    options = {"depth": 2} if name.startswith("vit_") else {}
    with pytest.raises(LabError, match=says):
        load_vit(name, device="cpu", options=options)


def test_a_block_of_sam_that_sees_windows_is_not_rewritten() -> None:
    backbone = small_vit("samvit_base_patch16")
    with pytest.raises(LabError, match=r"block 0 attends within windows of 3 x 3 patches"):
        toy.encoded(backbone, photos(backbone), load_attention("csa", layers="last 2"))
    layers = Layers(toy.encoded(backbone, photos(backbone), load_attention("csa")))
    assert layers.attention(0) is None  # diagnostics of every layer leave it out
    assert layers.attention(1) is not None


def test_limits_around_gemmas_layers() -> None:
    backbone = small_vit("gemma4_vit_167m")
    backbone.model.double()
    encoder, grid = backbone.model.encoder, (3, 5)
    tokens = torch.randn(2, 15, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    places, _ = encoder.patch_embed._default_patch_coord(1, *grid, tokens.device)
    rotation = encoder.rotary_emb(tokens, places.flip(-1))
    block = backbone.blocks_on(grid)[0]
    free = block.module(tokens, *rotation)
    limits = [b for n, b in encoder.named_buffers() if n.endswith(("put_min", "put_max"))]
    assert all(limit.isinf() for limit in limits)
    for limit in limits:
        limit.copy_(limit.sign() * 0.4)
    limited = block.module(tokens, *rotation)
    assert relative_error(limited, free) > 0.01
    assert relative_error(block.plain(tokens), limited) < 1e-6  # its sines are float32


def test_a_grid_without_whole_cells_is_refused() -> None:
    backbone = small_vit("qwen3_vit_88m_merge")
    with pytest.raises(LabError, match=r"2 x 2 patches, which a grid of 3 x 4 has no whole number"):
        dense_features(backbone, torch.zeros(1, 3, 48, 64), load_attention("csa"))


@pytest.mark.parametrize("kind", ["parallel", "Gemma", "SAM", "Qwen", "VOLO"])
def test_half_precision(kind: str) -> None:
    name, options = TIMM[kind]
    backbone = small_vit(name, **options)
    exact = dense_features(backbone, photos(backbone), load_attention("csa")).flatten(0, 2)
    lower_precision(backbone.tower, "fp16")  # of all blocks; bf16 spares the first two
    assert backbone.dtype == torch.float16
    rough = dense_features(backbone, photos(backbone), load_attention("csa")).flatten(0, 2)
    assert torch.cosine_similarity(exact, rough).min() > 0.999


def test_a_block_without_its_grid_is_refused() -> None:
    backbone = small_vit("vit_small_patch16_dinov3")
    with pytest.raises(LabError, match="blocks_on"):
        backbone.blocks[0].plain(torch.zeros(1, 21, 64))
