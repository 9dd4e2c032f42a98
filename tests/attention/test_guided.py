"""Attention by a second network's features: formulas in closed form, and on grids of its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.attention import guided
from sclip_lab.attention.repair import lof_mask
from sclip_lab.attention.similarity import above_mean
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import allow
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import Context
from sclip_lab.network.scene import Guidance, Scene
from sclip_lab.segmentation.encoded import Encoded, encode
from tests.second_network import guide


def run(backbone: Backbone, images: Tensor, features: Tensor | None, *names: str, **over: object):
    variants = [load_attention(name, **over) for name in names]
    scene = Scene(guidance=None if features is None else Guidance(lambda: features))
    result: dict[int, Encoded] = dict(encode(backbone, images, variants, scene=scene))
    return [result[index] for index in range(len(names))]


def test_similarity_softmax_by_hand() -> None:
    similarities = torch.tensor([[[1.0, 0.6, 0.0], [0.6, 1.0, 0.2], [0.0, 0.2, 1.0]]])
    mean = float(similarities.mean())
    result = above_mean(similarities, 1.0, 2.0).softmax(-1)[0]
    two = torch.softmax(2 * (torch.tensor([1.0, 0.6]) - mean), dim=0)
    torch.testing.assert_close(result[0], torch.tensor([two[0], two[1], 0.0]))
    torch.testing.assert_close(result[2], torch.tensor([0.0, 0.0, 1.0]))
    # Where all are alike the mean times beta is above every one: a patch keeps itself.
    assert torch.equal(above_mean(torch.ones(1, 2, 2), 1.2, 3.0).softmax(-1)[0], torch.eye(2))


def test_resizing_heads_is_torchs_and_swapped_axes_are_another_reading() -> None:
    value = torch.randn(2, 3, 6, 4)
    assert guided.resized(value, (2, 3), (2, 3)) is value
    result = guided.resized(value, (2, 3), (4, 6))
    expected = F.interpolate(value[:, 1].mT.unflatten(-1, (2, 3)), (4, 6), mode="bilinear")
    torch.testing.assert_close(result[:, 1], expected.flatten(-2).mT)
    swapped = guided.resized(value, (2, 3), (2, 3), swap_axes=True)
    expected = F.interpolate(value[:, 1].mT.unflatten(-1, (3, 2)), (2, 3), mode="bilinear")
    torch.testing.assert_close(swapped[:, 1], expected.flatten(-2).mT)


def test_one_hot_guidance_is_maskclip(backbone: Backbone, images: Tensor) -> None:
    """Features without anything in common leave each patch itself: MaskCLIP without residual."""
    features = torch.eye(48).view(48, 6, 8).expand(2, -1, -1, -1)
    [proxy] = run(backbone, images, features, "proxyclip")
    [mask] = run(backbone, images, None, "maskclip", residual=False, mlp=False)
    torch.testing.assert_close(proxy.patches, mask.patches, atol=1e-5, rtol=0)
    [weights] = run(backbone, images, features, "guided")
    torch.testing.assert_close(weights.patches, mask.patches, atol=1e-5, rtol=0)


def test_the_patches_lie_on_the_guidances_grid(backbone: Backbone, images: Tensor) -> None:
    features = guide(scale=2.0).of_windows(images, backbone)
    proxy, plain = run(backbone, images, features, "proxyclip", "vanilla")
    assert proxy.patches.shape == (2, 12, 16, 24)
    assert plain.patches.shape == (2, 6, 8, 24)
    assert proxy.part(slice(1)).patches.shape == (1, 12, 16, 24)
    [tokens] = run(backbone, images, features, "proxyclip", output_grid="tokens")
    [same] = run(backbone, images, features, "guided")
    torch.testing.assert_close(tokens.patches, same.patches, atol=1e-5, rtol=0)


def test_another_grid_is_for_the_last_block(backbone: Backbone, images: Tensor) -> None:
    features = guide(scale=2.0).of_windows(images, backbone)
    with pytest.raises(LabError, match=r"not the last.*output_grid=tokens"):
        run(backbone, images, features, "proxyclip", layers=[-2, -1])
    [both] = run(backbone, images, features, "proxyclip", layers=[-2, -1], output_grid="tokens")
    assert torch.isfinite(both.patches).all()
    with pytest.raises(LabError, match="unknown output_grid"):
        run(backbone, images, features, "proxyclip", output_grid="patches")


def test_who_is_not_marked_sees_no_guidance(backbone: Backbone, images: Tensor) -> None:
    """Else the key of a cell would not know what its number depends on."""
    features = guide().of_windows(images, backbone)
    assert load_attention("vanilla").uses == frozenset()
    assert load_attention("csa", mix="guidance").uses == {"guidance"}
    with pytest.raises(LabError, match="needs guidance"):
        run(backbone, images, None, "proxyclip")
    allow(__name__)
    blind = {"_target_": f"{__name__}.unmarked"}
    with pytest.raises(LabError, match="needs guidance"):
        run(backbone, images, features, "csa", prior=blind)


def unmarked(ctx):
    return ctx.guidance.on(ctx.grid)


def test_parts_of_other_variants(backbone: Backbone, images: Tensor) -> None:
    features = guide().of_windows(images, backbone)
    [csa] = run(backbone, images, features, "csa")
    [half] = run(backbone, images, features, "csa", mix="guidance")
    [alone] = run(backbone, images, features, "guided", residual=True, mlp=True)
    expected = (csa.state.attention + alone.state.attention) / 2
    torch.testing.assert_close(half.state.attention, expected)
    none = {"_target_": "sclip_lab.attention.guided.guidance_prior", "strength": 0.0}
    [unmoved] = run(backbone, images, features, "csa", prior=none)
    torch.testing.assert_close(unmoved.state.attention, csa.state.attention)
    [moved] = run(backbone, images, features, "csa", prior="guidance")
    assert not torch.allclose(moved.state.attention, csa.state.attention)


def test_outliers_become_what_looks_like_them(backbone: Backbone, images: Tensor) -> None:
    """Two kinds of patches: an outlier gets the mean of the clean ones of its kind."""
    kind = torch.arange(48) % 2
    features = torch.nn.functional.one_hot(kind).T.reshape(2, 6, 8).float().expand(2, -1, -1, -1)
    [plain] = run(backbone, images, features, "vanilla")
    entered = plain.history[-1]
    scene = Scene(guidance=Guidance(lambda: features))
    context = Context(entered, plain.history[:-1], (6, 8), scene=scene)
    result = guided.guidance_repair(context)
    outliers = lof_mask(entered.tokens[:, 1:])
    for image in range(2):
        clean = entered.tokens[image, 1:]
        for patch in range(48):
            expected = clean[patch]
            if outliers[image, patch]:
                expected = clean[~outliers[image] & (kind == kind[patch])].mean(0)
            torch.testing.assert_close(result[image, 1 + patch], expected, atol=1e-5, rtol=1e-5)
    assert outliers.any()


def test_combinations_that_no_paper_tried_are_yaml_alone(
    backbone: Backbone, images: Tensor
) -> None:
    features = torch.randn(2, 32, 6, 8, generator=torch.Generator().manual_seed(5))
    parts = {"prior": "guidance", "mix": "guidance", "repair": "guidance"}
    [plain] = run(backbone, images, None, "csa")
    observed = [plain.patches]
    for chosen in ({"prior": "guidance"}, {"mix": "guidance"}, {"repair": "guidance"}, parts):
        [result] = run(backbone, images, features, "csa", **chosen)
        assert torch.isfinite(result.patches).all()
        assert all(not torch.equal(result.patches, before) for before in observed)
        observed.append(result.patches)
    [repaired] = run(backbone, images, features, "scclip", repair="guidance")
    [usual] = run(backbone, images, None, "scclip")
    assert not torch.equal(repaired.patches, usual.patches)
