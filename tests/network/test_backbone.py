"""The borrowed CLIP against open_clip's own calls, and one clear error for what does not fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.architecture import infer_architecture
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.precision import _quick_gelu_to_silu
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features
from tests import make_clip
from tests.conftest import ARCHITECTURE

pytestmark = pytest.mark.usefixtures("quiet")

TEXTS = ["a photo of a cat.", "sky", "a very long description of " + "many " * 90 + "things", ""]


@pytest.fixture(scope="module")
def openai_weights() -> dict[str, np.ndarray]:
    """The toy CLIP of the parity vectors, in OpenAI's layout."""
    return make_clip.make_state_dict(make_clip.SEEDS["public"]["weights"])


def square(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def class_embeddings(backbone: Backbone, images: Tensor) -> Tensor:
    grid = backbone.grid(*images.shape[-2:])
    variants = [load_attention("vanilla")]
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), grid, variants)
    return backbone.project(state, grid)[1]


def test_class_embedding_equals_encode_image(backbone: Backbone) -> None:
    expected = backbone.model.encode_image(square(), normalize=False)
    torch.testing.assert_close(class_embeddings(backbone, square()), expected, atol=1e-5, rtol=0)


def test_facts(backbone: Backbone) -> None:
    assert backbone.depth == 4
    assert backbone.patch_size == 16
    assert backbone.image_size == 64
    assert backbone.embed_dim == 24
    assert backbone.blocks[0].num_heads == 4
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize(
    ("padding", "size", "grid"),
    [("floor", (64, 95), (4, 5)), ("corner", (64, 95), (4, 6)), ("corner", (1, 16), (1, 1))],
)
def test_grid(padding: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    padded = load_backbone(architecture=ARCHITECTURE, padding=padding, device="cpu")
    assert padded.grid(*size) == grid
    assert padded.embed(torch.zeros(1, 3, *size)).shape == (1, 1 + grid[0] * grid[1], 64)


def test_corner_padding_is_zeros_at_the_bottom_and_right() -> None:
    floor = load_backbone(architecture=ARCHITECTURE, device="cpu")
    corner = load_backbone(architecture=ARCHITECTURE, padding="corner", device="cpu")
    image = square(58)
    by_hand = torch.zeros(2, 3, 64, 64)
    by_hand[..., :58, :58] = image
    assert torch.equal(corner.embed(image), floor.embed(by_hand))


def test_pixels_beyond_the_last_patch_change_nothing(backbone: Backbone) -> None:
    image = square(79)
    assert torch.equal(backbone.embed(image), backbone.embed(image[..., :64, :64]))


def test_images_that_do_not_fit(backbone: Backbone) -> None:
    with pytest.raises(LabError, match="15 x 64 pixels is smaller than a 16 px patch"):
        backbone.embed(torch.zeros(1, 3, 15, 64))
    with pytest.raises(LabError, match="batch, 3, height, width"):
        backbone.embed(torch.zeros(3, 64, 64))
    with pytest.raises(LabError, match="batch, 3, height, width"):
        dense_features(backbone, torch.zeros(1, 64, 64, 3), load_attention("csa"))


def test_normalise(backbone: Backbone) -> None:
    image = torch.tensor([0, 122, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [-122.771 / 68.501, (122 - 116.746) / 66.632, (255 - 104.094) / 70.323]
    assert backbone.normalise(image).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_dense_features_of_bytes_are_normalised(backbone: Backbone) -> None:
    attention = load_attention("vanilla")
    photo = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 80), np.uint8)
    by_hand = backbone.normalise(torch.from_numpy(photo))
    features = dense_features(backbone, photo, attention)
    assert torch.equal(features, dense_features(backbone, by_hand, attention))
    unit = dense_features(backbone, photo, attention, normalize=True)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(features, dim=-1))


def test_encode_text_equals_open_clip(backbone: Backbone) -> None:
    tokens = open_clip.tokenize(TEXTS)
    expected = backbone.model.encode_text(tokens, normalize=False)
    torch.testing.assert_close(
        backbone.encode_text(TEXTS, truncate=True), expected, atol=1e-5, rtol=0
    )
    # Cut into batches, the order stays.
    torch.testing.assert_close(
        backbone.encode_text(TEXTS * 3, batch=2, truncate=True),
        expected.repeat(3, 1),
        atol=1e-5,
        rtol=0,
    )


def test_seed_decides_random_weights() -> None:
    one, same, other = (
        load_backbone(architecture=ARCHITECTURE, seed=seed, device="cpu") for seed in (3, 3, 4)
    )
    assert one.key == same.key
    assert one.key != other.key
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_backbone(architecture=ARCHITECTURE, seed=5, device="cpu")
    assert torch.equal(torch.rand(1), expected)


def test_digest_sees_weights_and_settings(weights: dict[str, Tensor]) -> None:
    def digest(changed: str | None = None, **settings: Any) -> str:
        changed_weights = dict(weights)
        if changed:
            changed_weights[changed] = changed_weights[changed] + 1e-6
        return load_backbone(
            architecture=ARCHITECTURE, state_dict=changed_weights, device="cpu", **settings
        ).key

    digests = [
        digest(),
        digest("visual.proj"),
        digest("ln_final.bias"),
        digest(quick_gelu=False),
        digest(layer_norm_eps=1e-6),
        digest(padding="corner"),
        digest(position_embedding="bicubic"),
        digest(mean=(0.0, 0.0, 0.0)),
        digest(precision="bf16"),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]


def test_text_digest_sees_the_text_tower_alone(weights: dict[str, Tensor]) -> None:
    def digest(changed: str) -> str:
        changed_weights = {**weights, changed: weights[changed] + 1}
        return load_backbone(
            architecture=ARCHITECTURE, state_dict=changed_weights, device="cpu"
        ).text_key

    assert digest("visual.proj") == digest("visual.ln_post.bias")
    assert digest("visual.proj") != digest("ln_final.bias")


def test_quick_gelu() -> None:
    def activation(**options: Any) -> str:
        loaded = load_backbone(device="cpu", **options)
        return type(loaded.model.visual.transformer.resblocks[0].mlp.gelu).__name__

    plain = {**ARCHITECTURE, "quick_gelu": False}
    assert activation(architecture=ARCHITECTURE) == "QuickGELU"
    assert activation(architecture=plain) == "GELU"
    assert activation(architecture=plain, quick_gelu=True) == "QuickGELU"
    assert activation(architecture=ARCHITECTURE, quick_gelu=False) == "GELU"
    assert activation(name="ViT-S-32-alt") == "GELU"
    assert activation(name="ViT-S-32-alt", quick_gelu=True) == "QuickGELU"


def test_openai_layout_is_quick_gelu_and_tells_its_shape(
    openai_weights: dict[str, np.ndarray],
) -> None:
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    openai_weights = openai_weights | {key: np.array(size) for key, size in sizes.items()}
    toy = load_backbone(state_dict=openai_weights, device="cpu")
    assert type(toy.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert (toy.depth, toy.patch_size, toy.image_size, toy.embed_dim) == (12, 16, 224, 64)
    assert toy.blocks[0].num_heads == 2
    wrapped = {f"module.{key}": value for key, value in openai_weights.items()}
    with pytest.raises(LabError, match="name the architecture"):
        load_backbone(state_dict={k: v for k, v in wrapped.items() if "vocab" not in k})
    assert load_backbone(state_dict=wrapped, device="cpu").key == toy.key


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("nested", [False, True])
def test_checkpoint_round_trip(
    suffix: str, nested: bool, weights: dict[str, Tensor], backbone: Backbone, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if nested else weights, path)
    config = tmp_path / "architecture.json"
    config.write_text(json.dumps(ARCHITECTURE))
    loaded = load_backbone(checkpoint=path, architecture=config, device="cpu")
    attention = load_attention("csa")
    assert torch.equal(
        dense_features(loaded, square(), attention), dense_features(backbone, square(), attention)
    )
    as_tag = load_backbone(pretrained=str(path), architecture=ARCHITECTURE, device="cpu")
    assert as_tag.key == loaded.key


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision(precision: str, weights: dict[str, Tensor], backbone: Backbone) -> None:
    low = load_backbone(
        architecture=ARCHITECTURE, state_dict=weights, precision=precision, device="cpu"
    )
    assert low.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    attention = load_attention("csa")
    exact = dense_features(backbone, square(), attention)
    rough = dense_features(low, square(), attention)
    assert rough.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(rough, exact, dim=-1)
    assert cosine.min() > (0.999 if precision == "bf16" else 0.9999)
    texts = torch.nn.functional.cosine_similarity(
        low.encode_text(TEXTS, truncate=True), backbone.encode_text(TEXTS, truncate=True)
    )
    assert texts.min() > 0.999


def test_bf16_spares_what_all_blocks_inherit(weights: dict[str, Tensor]) -> None:
    dtypes = {}
    for precision in ("fp32", "bf16", "fp16"):
        low = load_backbone(
            architecture=ARCHITECTURE, state_dict=weights, precision=precision, device="cpu"
        )
        assert low.model.visual.conv1.weight.dtype == torch.float32
        dtypes[precision] = [block.dtype for block in low.blocks]
    single, brain, half = torch.float32, torch.bfloat16, torch.float16
    rest = low.depth - 2
    assert rest > 0
    assert dtypes == {
        "fp32": [single] * low.depth,
        "bf16": [single] * 2 + [brain] * rest,
        "fp16": [half] * low.depth,
    }


def test_quick_gelu_becomes_silu(weights: dict[str, Tensor], backbone: Backbone) -> None:
    """In float64 the rewritten MLP is the same function."""
    low = load_backbone(
        architecture=ARCHITECTURE, state_dict=weights, precision="fp16", device="cpu"
    )
    mlp, exact = low.blocks[0].module.mlp, copy.deepcopy(backbone.blocks[0].module.mlp).double()
    assert type(exact.gelu).__name__ == "QuickGELU"
    assert isinstance(mlp.gelu, torch.nn.SiLU)
    rewritten = copy.deepcopy(exact)
    _quick_gelu_to_silu(rewritten)
    x = torch.randn(5, exact.c_fc.in_features, dtype=torch.float64)
    torch.testing.assert_close(rewritten(x), exact(x), atol=1e-14, rtol=0)
    torch.testing.assert_close(mlp.c_fc.weight, rewritten.c_fc.weight.half())


def test_layer_norm_eps(weights: dict[str, Tensor]) -> None:
    loaded = load_backbone(
        architecture=ARCHITECTURE, state_dict=weights, layer_norm_eps=1e-2, device="cpu"
    )
    assert loaded.model.visual.ln_post.eps == 1e-2
    assert loaded.blocks[0].module.ln_1.eps == 1e-2


def test_infer_architecture(openai_weights: dict[str, np.ndarray]) -> None:
    architecture = infer_architecture(openai_weights)
    assert architecture["vision_cfg"] == {
        "image_size": 224,
        "layers": 12,
        "width": 128,
        "head_width": 64,
        "patch_size": 16,
    }
    assert architecture["text_cfg"]["heads"] == 1
    with pytest.raises(LabError, match="not that of a ViT in OpenAI's layout"):
        infer_architecture({"weight": np.zeros(3)})
    odd = {**openai_weights, "visual.positional_embedding": np.zeros((196, 128))}
    with pytest.raises(LabError, match="195 patches, not a square"):
        infer_architecture(odd)
