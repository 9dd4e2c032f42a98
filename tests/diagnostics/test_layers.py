"""Layers and heads: against the blocks run by hand, and shared between variants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics import MEASURES, NONE, Layers, Observation, attention, values
from sclip_lab.diagnostics.shift import compare, moved
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.scene import Guidance, Scene
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.encoded import encode

GRID = (6, 8)
NAMES = list(MEASURES)


def observed(
    backbone: Backbone, images: Tensor, *names: str, **options: object
) -> list[Observation]:
    variants = [load_attention(name, **options) for name in names]
    observations: list[Observation | None] = [None] * len(variants)
    for index, encoded in encode(backbone, images, variants):
        labels = torch.zeros(2, *GRID, dtype=torch.long)
        labels[..., 4:] = 1
        observations[index] = Observation(
            encoded.state.attention,
            encoded.patches,
            encoded.class_embedding,
            labels,
            GRID,
            backbone.patch_size,
            layers=Layers(encoded),
        )
    return observations  # type: ignore[return-value]


def layer_values(observation: Observation, name: str) -> dict[tuple[int, int], float]:
    rows = values(MEASURES, [name], observation, layers=True)
    return {(row.layer, row.head): row.value for row in rows}


def plain_tokens(backbone: Backbone, images: Tensor) -> list[Tensor]:
    tokens = [backbone.embed(images)]
    for block in backbone.blocks:
        tokens.append(block.plain(tokens[-1]))
    return tokens


def test_heads_of_a_plain_layer(backbone: Backbone, images: Tensor) -> None:
    [observation] = observed(backbone, images, "csa")
    by_layer = layer_values(observation, "attention_entropy")
    block, tokens = backbone.blocks[0], backbone.embed(images)
    normed = block.norm(tokens)
    query, key = (block.project(normed, name) for name in ("query", "key"))
    weights = (query @ key.mT * block.scale).softmax(-1)[..., 1:, 1:]
    weights = weights / weights.sum(-1, keepdim=True)
    expected = attention.attention_entropy(weights).mean(0)
    for head, value in enumerate(expected.tolist()):
        assert by_layer[0, head] == pytest.approx(value, rel=1e-5)
    assert by_layer[0, NONE] == pytest.approx(expected.mean().item(), rel=1e-5)
    last = len(backbone.blocks) - 1
    assert by_layer[last, NONE] == pytest.approx(by_layer[NONE, NONE], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if MEASURES[name].of_layer])
def test_every_layered_measure(name: str, backbone: Backbone, images: Tensor) -> None:
    first, second = observed(backbone, images, "vanilla", "csa")
    one, other = layer_values(first, name), layer_values(second, name)
    alone = layer_values(observed(backbone, images, "csa")[0], name)
    assert other == pytest.approx(alone, rel=1e-5)  # shared layers change nothing
    assert {layer for layer, _ in one} == {NONE, *range(len(backbone.blocks))}
    if name != "cka_to_output":  # it compares with the end
        assert one[0, NONE] == other[0, NONE]


def test_weights_of_rewritten_layers_before_the_last_are_not_kept(
    backbone: Backbone, images: Tensor
) -> None:
    depth = len(backbone.blocks)
    [observation] = observed(backbone, images, "csa", layers=[-2, -1])
    layers = {layer for layer, _ in layer_values(observation, "diagonal_mass")}
    assert layers == {NONE, *range(depth)} - {depth - 2}
    blind = replace(observation, attention=None)
    assert (0, NONE) in layer_values(blind, "diagonal_mass")


def test_likeness_to_the_plain_network(backbone: Backbone, images: Tensor) -> None:
    vanilla, csa, two = (
        *observed(backbone, images, "vanilla", "csa"),
        *observed(backbone, images, "csa", layers=[-2, -1]),
    )
    assert layer_values(vanilla, "cka_to_plain")[NONE, NONE] == pytest.approx(1)
    assert layer_values(csa, "cka_to_plain")[NONE, NONE] < 0.9999
    expected = plain_tokens(backbone, images)[-1]
    for observation in (csa, two):
        assert observation.layers is not None
        torch.testing.assert_close(observation.layers.untouched(), expected, atol=1e-5, rtol=1e-4)


def test_a_variant_that_changes_every_block(backbone: Backbone, images: Tensor) -> None:
    """Registers, and an edit of every MLP, although only the last attention is rewritten."""
    hidden = {"_target_": "sclip_lab.attention.registers.moved", "neurons": [[0, 3]]}
    [seen] = observed(backbone, images, "registers", hidden=hidden)
    assert seen.layers is not None
    expected = plain_tokens(backbone, images)[-1]
    torch.testing.assert_close(seen.layers.untouched(), expected, atol=1e-5, rtol=1e-4)
    variant = load_attention("registers", hidden=hidden)
    after = dense_features(backbone, moved(images, backbone.patch_size), variant)
    torch.testing.assert_close(seen.layers.moved_features, after, atol=1e-5, rtol=1e-4)


def test_patches_on_a_grid_of_their_own(backbone: Backbone, images: Tensor) -> None:
    """ProxyCLIP's patches are the second network's, those of the layers before are not."""
    grid = (3, 5)
    features = torch.randn(2, 4, *grid, generator=torch.Generator().manual_seed(0))
    scene = Scene(guidance=Guidance(lambda: features))
    [(_, encoded)] = encode(backbone, images, [load_attention("proxyclip")], scene=scene)
    labels = torch.tensor([0, 0, 1, 1, 1]).expand(2, *grid)
    parts = (encoded.state.attention, encoded.patches, encoded.class_embedding, labels, grid)
    seen = Observation(*parts, backbone.patch_size, layers=Layers(encoded))
    for name in ("inter_class_mass", "mean_attention_distance", "attention_entropy"):
        by_layer = {layer: value for (layer, _), value in layer_values(seen, name).items()}
        last = len(backbone.blocks) - 1
        assert set(by_layer) == {NONE, last}
        assert by_layer[last] == pytest.approx(by_layer[NONE], rel=1e-5)
    for name in ("cka_to_plain", "cka_to_output", "shift_equivariance"):
        assert math.isnan(layer_values(seen, name)[NONE, NONE])
    norms = encoded.state.readout[:, 1:].norm(dim=-1)  # of 15 patches, without the class token
    rate = (norms > 75).float().mean().item()
    assert layer_values(seen, "high_norm_rate")[NONE, NONE] == pytest.approx(rate)
    assert seen.layers is not None
    assert seen.layers.patches(seen.layers.stream).shape[1] == 15


def test_residual_ratio_of_the_last_block(backbone: Backbone, images: Tensor) -> None:
    [observation] = observed(backbone, images, "vanilla")
    *_, entered, _ = plain_tokens(backbone, images)
    block = backbone.blocks[-1]
    normed = block.norm(entered)
    parts = (block.project(normed, name) for name in ("query", "key", "value"))
    output = block.merge(F.scaled_dot_product_attention(*parts))
    expected = (entered.norm(dim=-1) / output.norm(dim=-1)).mean().item()
    assert layer_values(observation, "residual_ratio")[NONE, NONE] == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("layers", [[-1], [-2, -1]], ids=str)
def test_moved_windows_equal_a_second_run(
    layers: list[int], backbone: Backbone, images: Tensor
) -> None:
    _, observation = observed(backbone, images, "vanilla", "csa", layers=layers)
    variant = load_attention("csa", layers=layers)
    both = (images, moved(images, backbone.patch_size))
    expected = compare(*(dense_features(backbone, x, variant) for x in both))
    for name, cosines in zip(("shift_equivariance", "shift_shuffled"), expected, strict=True):
        value = layer_values(observation, name)[NONE, NONE]
        assert value == pytest.approx(cosines.mean().item(), abs=1e-5)


def test_values_that_cannot_be(backbone: Backbone, images: Tensor) -> None:
    [observation] = observed(backbone, images, "csa")
    for bad, message in ((torch.inf, "infinite"), (torch.nan, "is NaN")):
        broken = replace(
            MEASURES["diagonal_mass"], compute=lambda _, bad=bad: torch.full((2,), bad)
        )
        with pytest.raises(LabError, match=message):
            list(values({"broken": broken}, ["broken"], observation))
