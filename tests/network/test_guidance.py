"""A second network: timm's own features as the oracle, its weights and names, and the scene."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.guidance import HUB_NAMES, load_guidance
from sclip_lab.network.scene import Guidance, Placement, Scene, alone
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.pipeline import Windows
from tests.second_network import SMALL, guide


def test_features_are_timms(backbone: Backbone, images: Tensor) -> None:
    network = guide()
    rgb = images * torch.tensor(backbone.std).view(-1, 1, 1)
    rgb = (rgb + torch.tensor(backbone.mean).view(-1, 1, 1)) / 255
    model = network.network.model
    normalised = timm.data.transforms_factory.transforms.Normalize(
        model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    )(rgb)
    with torch.inference_mode():
        tokens = model.forward_features(normalised)[:, model.num_prefix_tokens :]
    expected = tokens.mT.unflatten(-1, (6, 8))
    features = network.of_windows(images, backbone)
    assert features.shape == (2, 32, 6, 8)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_facets_are_parts_of_the_blocks_own_projection(backbone: Backbone, images: Tensor) -> None:
    network = guide()
    block = network.network.model.blocks[1]
    caught = []
    handle = block.norm1.register_forward_hook(lambda module, inputs, output: caught.append(output))
    network.of_windows(images, backbone)
    handle.remove()
    qkv = block.attn.qkv(caught[0])[:, 1:].unflatten(1, (6, 8)).permute(0, 3, 1, 2)
    for index, facet in enumerate(("query", "key", "value")):
        features = guide(facet=facet).of_windows(images, backbone)
        torch.testing.assert_close(features, qkv[:, 32 * index : 32 * (index + 1)])


def test_sides_are_scaled_and_brought_to_whole_patches(backbone: Backbone) -> None:
    images = torch.randn(1, 3, 96, 120)
    assert guide().of_windows(images, backbone).shape == (1, 32, 6, 8)
    assert guide(scale=2.0).of_windows(images, backbone).shape == (1, 32, 12, 15)


def test_features_of_sam_are_timms(backbone: Backbone) -> None:
    sizes = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    sizes |= {"window_size": 3, "global_attn_indexes": (1,)}
    arguments = {"name": "samvit_base_patch16", "device": "cpu", "options": sizes}
    network, images = load_guidance(**arguments), torch.randn(2, 3, 64, 96)
    for parameter in network.network.model.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape))  # its position tables are 0 at first
    with torch.inference_mode():
        expected = network.network.model.forward_features(network.input(images, backbone))
    features = network.of_windows(images, backbone)
    assert features.shape == (2, 256, 4, 6)  # behind its convolutions
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert load_guidance(**arguments, facet="key").of_windows(images, backbone).shape[1] == 32
    in_windows = load_guidance(**arguments, facet="key", layer=0)
    with pytest.raises(LabError, match="block 0 attends within windows of 3 x 3 patches"):
        in_windows.of_windows(images, backbone)


def test_a_windows_part_of_the_photos_features(backbone: Backbone) -> None:
    photo = torch.randn(3, 96, 128)
    network = guide(scope="photo")
    placed = Placement(slice(0, 2), ((0, 0), (32, 64)), (96, 128), 16)
    whole = network.features(network.input(photo[None], backbone))
    features = network.of_photo(photo, placed, (64, 64), backbone)
    torch.testing.assert_close(features[0], whole[0, :, :4, :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[1], whole[0, :, 2:, 4:], atol=1e-5, rtol=1e-5)


def test_weights_from_a_file_at_another_grid(tmp_path: Path) -> None:
    """As DINO's are published: with a head, and position embeddings of the size it was made at."""
    first = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=96, **SMALL)
    weights = {f"backbone.{k}": v.contiguous() for k, v in first.state_dict().items()}
    weights["backbone.mask_token"] = torch.zeros(1, 32)
    save_file(weights, tmp_path / "other.safetensors")
    loaded = guide(checkpoint=str(tmp_path / "other.safetensors"))
    weight = loaded.network.model.blocks[1].attn.qkv.weight
    assert torch.equal(weight, first.blocks[1].attn.qkv.weight)
    assert loaded.network.model.pos_embed.shape == (1, 197, 32)
    assert loaded.key != guide().key
    del weights["backbone.blocks.1.norm1.weight"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(LabError, match=r"less\.safetensors does not fit.*blocks\.1\.norm1\.weight"):
        guide(checkpoint=str(tmp_path / "less.safetensors"))


def test_the_digest_knows_weights_and_settings() -> None:
    assert guide().key == load_guidance("vit_tiny_patch16_224", device="cpu", options=SMALL).key
    digests = {guide(**options).key for options in ({}, {"seed": 1}, {"facet": "key"})}
    digests |= {guide(**options).key for options in ({"scale": 2.0}, {"scope": "photo"})}
    assert len(digests) == 5


def test_hub_names_are_timms_with_tags_that_exist() -> None:
    assert set(HUB_NAMES.values()) <= set(timm.list_pretrained())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dino_vitb6"}, "did you mean dino_vitb8|did you mean dino_vitb16"),
        ({"name": "resnet18"}, "a ViT is needed|cannot build it"),
        ({"facet": "keys"}, "did you mean key"),
        ({"scope": "window"}, "did you mean windows"),
        ({"layer": 12}, "has 2 blocks"),
        ({"scale": 0.0}, "above 0"),
        ({"checkpoint": "nowhere.safetensors"}, "does not exist"),
        ({"options": {"width": 3}}, "cannot build it"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    arguments = {"name": "vit_tiny_patch16_224", "device": "cpu", "options": SMALL} | options
    with pytest.raises(LabError, match=message):
        load_guidance(**arguments)  # type: ignore[arg-type]


def test_guidance_is_computed_once_and_only_when_asked_for() -> None:
    calls = []

    def compute() -> Tensor:
        calls.append(1)
        return torch.randn(3, 4, 5, 6)

    guidance = Guidance(compute)
    assert not calls
    part = guidance.part(slice(1, 3))
    assert part.on((5, 6)).shape == (2, 30, 4)
    assert guidance.on((2, 3)).shape == (3, 6, 4)
    torch.testing.assert_close(guidance.on((2, 3)).norm(dim=-1), torch.ones(3, 6))
    torch.testing.assert_close(guidance.on((5, 6))[1:], part.on((5, 6)))
    assert len(calls) == 1


def test_scenes_of_photos(backbone: Backbone) -> None:
    plan = windows.plan((96, 128), (96, 128), 64, 32, 16)
    pixels = torch.randint(256, (3, 96, 128), dtype=torch.uint8)
    twice = {name: {"change": None, "flip": None, "weight": 1.0} for name in ("photo", "again")}
    n = plan.num_windows
    scene = Windows([(plan, pixels)], twice, backbone).scene(slice(0, 2 * n))
    both = Windows([(plan, pixels)] * 2, None, backbone)
    assert [p.windows for p in both.scene(both.every).photos] == [p.windows for p in scene.photos]
    assert [p.windows for p in scene.photos] == [slice(0, n), slice(n, 2 * n)]
    assert scene.part(slice(n, 2 * n)).photos[0].windows == slice(0, n)
    # The first pixel of a window's patch is where the patch is in the photo.
    rows, columns = scene.photos[1].first_pixels((4, 4)).view(n, 16, 2).unbind(-1)
    index = torch.arange(96 * 128).view(1, 96, 128)
    assert torch.equal(rows * 128 + columns, plan.cut(index)[:, 0, ::16, ::16].flatten(1))
    assert len(alone(3, (64, 64))) == 3
    with pytest.raises(LabError, match=r"needs guidance.*guidance=dino_vitb16"):
        Scene().need_guidance("this")
    with pytest.raises(LabError, match=r"scope photo knows no views"):
        Windows([(plan, pixels)], twice, backbone, guide(scope="photo"))
