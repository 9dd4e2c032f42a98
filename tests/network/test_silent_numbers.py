"""Numbers that used to be wrong without a word, one test each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.utils import prune

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.guidance import load_guidance
from sclip_lab.network.loading import load_backbone, seeded
from tests import toy
from tests.conftest import ARCHITECTURE
from tests.network.small_networks import (
    TEXT,
    own_features,
    photos,
    publish,
    relative_error,
    shrink,
    small_options,
    small_vit,
)

pytestmark = pytest.mark.usefixtures("quiet")


def folder(monkeypatch: pytest.MonkeyPatch, path: Path, with_weights: bool) -> str:
    """A model of a hub, as a local folder."""
    shrink(monkeypatch, "ViT-S-32")
    weights = publish(monkeypatch, "ViT-S-32", path / "published.unknown")
    if with_weights:
        save_file(weights, path / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config("ViT-S-32"), "preprocess_cfg": {}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{path}"


def test_a_hubs_model_without_weights_is_no_random_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = folder(monkeypatch, tmp_path, with_weights=False)
    with pytest.raises(LabError, match=r"its weights cannot be fetched.*checkpoint=<local file>"):
        load_backbone(name, device="cpu")


def test_a_hubs_model_with_weights_is_not_called_random(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = load_backbone(folder(monkeypatch, tmp_path, with_weights=True), device="cpu")
    assert backbone.description["pretrained"] == "local-dir"
    assert backbone.description["seed"] is None


@pytest.mark.parametrize("facet", ["query", "key", "value"])
@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_tiny_patch16_224"]
)
def test_facets_are_projections_and_not_tokens(name: str, facet: str) -> None:
    options = small_options(name)
    guide = load_guidance(name, facet=facet, layer=0, device="cpu", options=options)
    images = torch.randn(1, 3, options["img_size"], options["img_size"])
    model, caught = guide.network.model, []
    attention = model.blocks[0].attn
    handle = attention.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    model.forward_features(images)
    handle.remove()
    if attention.qkv is None:
        expected = getattr(attention, f"{facet[0]}_proj")(caught[0])
    else:
        which = ("query", "key", "value").index(facet)
        expected = attention.qkv(caught[0]).chunk(3, -1)[which]
        bias = getattr(attention, f"{facet[0]}_bias", None)
        expected = expected if bias is None else expected + bias
    expected = expected[:, model.num_prefix_tokens :]
    features = guide.features(images).flatten(2).mT
    assert relative_error(features, expected.detach()) < 1e-5


def test_tokens_of_guidance_are_timms() -> None:
    name = "vit_small_patch14_reg4_dinov2"
    guide = load_guidance(name, device="cpu", options=small_options(name))
    images = torch.randn(1, 3, 42, 70)
    [expected] = guide.network.model.forward_intermediates(
        images, indices=[1], norm=True, intermediates_only=True
    )
    assert relative_error(guide.features(images), expected.detach()) < 1e-5


def test_another_gelu_is_another_key() -> None:
    state = load_backbone(architecture=with_act({}), device="cpu").model.state_dict()
    exact, tanh = (
        load_backbone(architecture=with_act(kw), state_dict=state, device="cpu")
        for kw in ({}, {"approximate": "tanh"})
    )
    images = photos(exact)
    features = [own_features(backbone, images)[0] for backbone in (exact, tanh)]
    assert not torch.equal(*features)
    assert exact.key != tanh.key
    same = load_backbone(architecture=with_act({}), state_dict=state, device="cpu")
    assert same.key == exact.key


def with_act(options: dict[str, Any]) -> dict[str, Any]:
    vision = {**ARCHITECTURE["vision_cfg"], "act_kwargs": options}
    return {**ARCHITECTURE, "quick_gelu": False, "vision_cfg": vision}


@pytest.mark.parametrize("part", ["vision_cfg", "text_cfg"])
def test_text_and_image_structure_are_in_the_keys(part: str, backbone: Backbone) -> None:
    state = backbone.model.state_dict()
    changed = {**ARCHITECTURE, part: {**ARCHITECTURE[part], "norm_kwargs": {"eps": 1e-3}}}
    other = load_backbone(architecture=changed, state_dict=state, device="cpu")
    assert other.key != backbone.key
    assert (other.text_key != backbone.text_key) == (part == "text_cfg")


def test_features_that_are_not_finite_are_refused(backbone: Backbone) -> None:
    state = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    name = "visual.transformer.resblocks.3.mlp.c_proj.weight"
    state[name] *= 1e7
    half = load_backbone(
        architecture=ARCHITECTURE, state_dict=state, precision="fp16", device="cpu"
    )
    with pytest.raises(LabError, match=r"features in float16 are not finite.*take fp32"):
        lab.dense_features(half, photos(half), "vanilla")


def test_features_enter_a_computation_with_gradients(backbone: Backbone) -> None:
    features = lab.dense_features(backbone, photos(backbone), "csa")
    assert not features.is_inference()
    weight = torch.ones(features.shape[-1], requires_grad=True)
    (features @ weight).sum().backward()
    assert weight.grad is not None


def test_names_and_images_of_any_kind(backbone: Backbone, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    image.save(tmp_path / "photo.png")
    expected = lab.dense_features(
        backbone, pixels.permute(2, 0, 1)[None], lab.load_attention("csa")
    )
    for same in (image, pixels.numpy(), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert torch.equal(lab.dense_features(backbone, same, "csa"), expected)


class TestMaps:
    """`lab.attention_maps`."""

    def test_of_the_network_itself(self, backbone: Backbone) -> None:
        images, caught = photos(backbone)[:1], []
        module = backbone.model.visual.transformer.resblocks[1]
        handle = module.ln_1.register_forward_hook(lambda m, inputs, out: caught.append(out))
        backbone.model.encode_image(images)
        handle.remove()
        _, expected = module.attn(*[caught[0]] * 3, average_attn_weights=False)
        weights, grid = lab.attention_maps(backbone, images, "csa", layer=1)
        assert grid == (4, 4)
        assert relative_error(weights, expected[0].detach()) < 1e-5

    @pytest.mark.parametrize(("name", "total"), [("vanilla", 1), ("csa", 2), ("naclip", 1)])
    def test_of_variants(self, name: str, total: int, backbone: Backbone) -> None:
        image = photos(backbone)[0]
        variant = lab.load_attention(name, layers=[-2, -1])
        for layer in (-1, -2):
            maps = lab.attention_maps(backbone, image, variant, layer=layer)
            assert maps.weights.shape == (backbone.blocks[0].num_heads, 17, 17)
            assert torch.allclose(maps.weights.sum(-1), torch.tensor(float(total)), atol=1e-5)
        last = lab.attention_maps(backbone, image, variant)
        state = toy.encoded(backbone, image[None], variant).state
        assert state.attention is not None
        assert torch.equal(last.weights, state.attention[0])

    def test_refusals(self, backbone: Backbone) -> None:
        with pytest.raises(LabError, match="2 images; give one"):
            lab.attention_maps(backbone, photos(backbone), "csa")
        with pytest.raises(LabError, match="out of range"):
            lab.attention_maps(backbone, photos(backbone)[0], "csa", layer=9)
        with pytest.raises(LabError, match="unknown attention 'cas'; did you mean csa"):
            lab.attention_maps(backbone, photos(backbone)[0], "cas")


def small_clip(vision: dict[str, Any] | None = None) -> Any:
    """Two blocks of open_clip's, random, always the same."""
    sizes = {"layers": 2, "width": 64, "image_size": 32, "patch_size": 16}
    with seeded(0):
        return open_clip.CLIP(8, vision or sizes, TEXT)


def in_memory(model: Any, **options: Any) -> Backbone:
    statistics = {"mean": [127.5] * 3, "std": [127.5] * 3}
    return load_backbone(model=model, device="cpu", **{**statistics, **options})


class TestInMemory:
    """`lab.load_backbone(model=...)`."""

    def test_open_clip(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        shrink(monkeypatch, "ViT-L-14")
        publish(monkeypatch, "ViT-L-14", tmp_path / "weights.pt")
        model, _, preprocess = open_clip.create_model_and_transforms(
            "ViT-L-14", "laion2b_s32b_b82k"
        )
        backbone = lab.load_backbone(model=model, preprocess=preprocess, device="cpu")
        by_name = load_backbone("ViT-L-14", "laion2b_s32b_b82k", device="cpu")
        assert backbone.key == by_name.key
        assert backbone.mean == by_name.mean == (127.5, 127.5, 127.5)
        assert torch.equal(backbone.encode_text(["a cat"]), by_name.encode_text(["a cat"]))
        assert model.training or next(model.parameters()).requires_grad  # left as it was
        assert backbone.description["seed"] is None
        model.visual.proj.data += 1
        assert lab.load_backbone(model=model, device="cpu").key != by_name.key

    def test_timm(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
        backbone = lab.load_backbone("mine", model=model, device="cpu")
        images = torch.randn(1, 3, 224, 224)
        patches, whole = own_features(backbone, images)
        ours = toy.encoded(backbone, images, lab.load_attention("vanilla"))
        assert relative_error(ours.patches.flatten(1, 2), patches) < 5e-6
        assert relative_error(ours.class_embedding, whole) < 5e-6
        assert not backbone.has_text

    def test_refusals(self) -> None:
        with pytest.raises(LabError, match="does not say its channel statistics"):
            lab.load_backbone(model=open_clip.CLIP(8, {"layers": 1, "width": 64}, {"layers": 1}))
        model = timm.create_model("vit_tiny_patch16_224", depth=1)
        with pytest.raises(LabError, match="leave checkpoint and pretrained"):
            lab.load_backbone(model=model, checkpoint="x")

    def test_what_weights_do_not_show_is_refused(self) -> None:
        """A patched block, a hook and an adapter change the model, but none of its weights."""

        def load(change: Callable[[Any], Any]) -> Backbone:
            model = small_clip()
            change(model.visual.transformer.resblocks[0])
            wrapped = torch.nn.DataParallel(model)
            return lab.load_backbone(model=wrapped, mean=[0] * 3, std=[1] * 3, device="cpu")

        class Adapter(torch.nn.Module):
            pass

        assert load(lambda block: None).name == "CLIP"
        for change in (
            lambda block: setattr(block, "forward", lambda x, *args, **options: 0 * x),
            lambda block: block.register_forward_hook(lambda module, x, output: 1.1 * output),
            lambda block: setattr(block.mlp, "c_fc", Adapter()),
        ):
            with pytest.raises(LabError, match="computes something else than its weights say"):
                load(change)
        model = small_clip()
        for options, says in (
            ({"model": model, "quick_gelu": True}, "leave quick_gelu"),
            ({"model": model, "preprocess": print}, "no step with mean and std"),
            ({"model": model.to("meta"), "mean": [0] * 3, "std": [1] * 3}, "has no numbers"),
            ({"model": 3}, "its image tower is a int.*goes by state_dict=model.state_dict"),
            (
                {"model": model, "mean": [0] * 3, "std": [1] * 3, "tokenizer": "x"},
                "tokenizer= is a str; give a function",
            ),
        ):
            with pytest.raises(LabError, match=says):
                lab.load_backbone(**options)

    def test_the_last_blocks_patches_and_encode_image_count(self) -> None:
        class Adapted(open_clip.CLIP):
            def encode_image(self, image: Any, normalize: bool = False) -> Any:
                return super().encode_image(image) * torch.arange(8)

        def triple(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return torch.cat([output[:, :1], 3 * output[:, 1:]], dim=1)

        sizes = {"layers": 2, "width": 64, "image_size": [32, 16], "patch_size": 16}
        hooked = small_clip(vision=sizes)
        hooked.visual.transformer.resblocks[-1].register_forward_hook(triple)
        for model in (hooked, Adapted(8, sizes, TEXT)):
            with pytest.raises(LabError, match="computes something else than its weights say"):
                in_memory(model)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_computes_as_precision_says(self, dtype: torch.dtype) -> None:
        model = small_clip().to(dtype)
        exact, images = in_memory(small_clip().to(dtype).float()), torch.randn(1, 3, 32, 32)
        vanilla = lab.load_attention("vanilla")
        expected = lab.dense_features(exact, images, vanilla)
        assert torch.equal(lab.dense_features(in_memory(model), images, vanilla), expected)
        low = lab.dense_features(in_memory(model, precision="bf16"), images, vanilla)
        assert relative_error(low, expected) < 0.02
        assert next(model.parameters()).dtype == dtype  # left as it was

    def test_tokenizers_are_told_apart(self) -> None:
        """One pair of networks with the same weights must not share text embeddings."""
        one = in_memory(small_clip())
        other = in_memory(
            small_clip(), tokenizer=lambda texts: 1 + torch.zeros(len(texts), 77).int()
        )
        assert one.key == in_memory(small_clip()).key != other.key
        assert one.text_key != other.text_key

    @pytest.mark.parametrize(
        ("tokenizer", "says"),
        [
            (lambda texts: [[1] * 77] * len(texts), r"gave list for 2 texts"),
            (lambda texts: torch.ones(1, 77).int(), r"gave \(1, 77\) for 2 texts.*whole numbers"),
            (lambda texts: torch.ones(len(texts), 77), r"gave \(2, 77\) for 2 texts"),
            (lambda texts: torch.ones(len(texts), 90).int(), "reads 77 tokens.*gave 90"),
            (lambda texts: 49408 + torch.zeros(len(texts), 77).int(), "ids below 49408"),
            (lambda texts: texts.missing, "failed on texts: AttributeError"),
        ],
    )
    def test_tokens_that_cannot_be_read(self, tokenizer: Any, says: str) -> None:
        with pytest.raises(LabError, match=says):
            in_memory(small_clip(), tokenizer=tokenizer).encode_text(["cat", "dog"], truncate=True)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"mean": [0.48, 0.46, 0.41]}, "mean .0.48.* not those of pixels in 0 .. 255"),
            ({"std": [0.27, 0.26, 0.28]}, "not those of pixels in 0 .. 255"),
            ({"preprocess": {"mean": [122.8] * 3, "std": [68.5] * 3}, "mean": None}, "0 .. 255"),
            ({"position_embedding": "bicubicc"}, "did you mean bicubic"),
            ({"weights": "ema"}, "leave checkpoint and pretrained, weights"),
        ],
    )
    def test_options_that_would_be_wrong_or_ignored(self, options: Any, says: str) -> None:
        with pytest.raises(LabError, match=says):
            in_memory(small_clip(), **options)

    def test_models_that_cannot_be_read(self) -> None:
        pruned = small_clip()
        prune.random_unstructured(pruned.visual.transformer.resblocks[0].mlp.c_fc, "weight", 0.5)
        sizes = {"layers": 1, "width": 64, "image_size": 32, "patch_size": [16, 8]}
        for model, says in (
            (pruned, "cannot be copied; make pruned weights permanent"),
            (small_clip().visual, "a tower alone; give the whole model"),
            (small_clip(vision=sizes), r"patches of \(16, 8\) are not square"),
        ):
            with pytest.raises(LabError, match=says):
                in_memory(model)
        with pytest.raises(LabError, match="are of model="):
            lab.load_backbone("ViT-S-32", seed=0, tokenizer=print)

    def test_quantised_weights_are_refused(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        with pytest.raises(LabError, match="is no tensor; give unquantised weights"):
            lab.load_backbone(model=quantised, device="cpu")

    def test_repr_and_device(self, backbone: Backbone) -> None:
        assert len(repr(backbone)) < 120
        assert repr(backbone).startswith("Backbone(custom: 4 blocks, patch 16")
        assert backbone.to("cpu") is backbone


def test_class_embedding_of_attention_pool_and_mean() -> None:
    """Where a network pools, its image embedding is what it pools, not its class token."""
    for options in ({"global_pool": "avg"}, {"global_pool": "map"}):
        backbone = small_vit("vit_tiny_patch16_224", **options)
        images = photos(backbone)
        expected = own_features(backbone, images)[1]
        ours = toy.encoded(backbone, images, lab.load_attention("vanilla")).class_embedding
        assert relative_error(ours, expected) < 5e-6
