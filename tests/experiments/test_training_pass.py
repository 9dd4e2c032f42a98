"""The pass of training against open_clip's own, and what it hides."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
from torch import Tensor

from experiments.patchwork.grouping import APART, CODES, Grouping, Weights, code, too_near
from experiments.patchwork.tower import Hiding, Outputs, Tower

NOTHING = Hiding(seen=1.0, alone=0.0, readers=2, even=0.0, most=0.0, swapped=0.0, bare=0.0)
VISION = {"image_size": 32, "patch_size": 8, "layers": 4, "width": 24, "head_width": 8}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture
def clip() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(16, VISION, TEXT, quick_gelu=True).eval()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def run(clip: open_clip.CLIP, pixels: Tensor, **hidden: float) -> Outputs:
    hiding = Hiding(**{**vars(NOTHING), **hidden})
    with torch.no_grad():
        return Tower(clip.visual, 8, hiding, low=False)(pixels)


def test_with_nothing_hidden_the_pass_is_open_clips(clip: open_clip.CLIP, pixels: Tensor) -> None:
    with torch.no_grad():
        theirs = clip.encode_image(pixels, normalize=True)
    assert torch.allclose(run(clip, pixels).embeddings[:, 0], theirs, atol=1e-5)


def test_readers_are_patches_of_the_last_block(clip: open_clip.CLIP, pixels: Tensor) -> None:
    """Oracle: open_clip's tokens behind the last block, normalised and projected."""
    clip.visual.output_tokens = True
    with torch.no_grad():
        _, tokens = clip.visual(pixels)
        theirs = torch.nn.functional.normalize(tokens @ clip.visual.proj, dim=-1)
    readers = run(clip, pixels).embeddings[:, 1:]
    distance = torch.cdist(readers, theirs).amin(dim=-1)
    assert distance.max() < 1e-3


def test_alone_nothing_is_mixed_before_the_last_block(clip: open_clip.CLIP, pixels: Tensor) -> None:
    """A patch before the last block depends on its own pixels alone."""
    torch.manual_seed(0)
    before = run(clip, pixels, alone=1.0)
    assert before.mixed == 0.0
    changed = pixels.clone()
    changed[:, :, :8, :8] += 1.0
    torch.manual_seed(0)
    after = run(clip, changed, alone=1.0)
    moved = (before.late - after.late).abs().amax(dim=-1) > 1e-6
    assert moved.sum(dim=1).tolist() == [1, 1, 1]
    torch.manual_seed(0)
    assert run(clip, pixels).mixed > 0.0


def test_a_part_has_the_places_of_a_window(clip: open_clip.CLIP, pixels: Tensor) -> None:
    """All patches of a part are seen, at neighbouring places of the grid."""
    outputs = run(clip, pixels[:, :, :16, :16], seen=0.5)
    assert outputs.late.shape == (3, 4, 24)
    assert run(clip, pixels, seen=0.5).late.shape == (3, 8, 24)


def test_at_least_one_token_is_seen(clip: open_clip.CLIP, pixels: Tensor) -> None:
    assert torch.isfinite(run(clip, pixels, most=1.0).embeddings).all()


def test_a_share_of_readers_has_the_residual_of_another_window(
    clip: open_clip.CLIP, pixels: Tensor
) -> None:
    torch.manual_seed(0)
    whole_pass = run(clip, pixels).embeddings
    torch.manual_seed(0)
    other = run(clip, pixels, swapped=1.0).embeddings
    assert torch.equal(whole_pass[:, 0], other[:, 0])
    assert (whole_pass[:, 1:] - other[:, 1:]).abs().amax(dim=-1).min() > 1e-4


def test_like_colours_have_like_codes() -> None:
    """Random Fourier features of a Gaussian kernel: their inner product over their number is
    exp(-distance^2 / (2 scale^2)) up to sampling (Rahimi and Recht 2007)."""
    assert code(torch.zeros(1, 3)).square().sum().item() == pytest.approx(CODES)
    near, far = torch.full((1, 3), 0.05), torch.full((1, 3), 3.0)
    here = code(torch.zeros(1, 3))
    assert (code(near) * here).sum().item() / CODES == pytest.approx(1.0, abs=0.05)
    assert abs((code(far) * here).sum().item() / CODES) < 0.5


def test_the_losses_add_up(clip: open_clip.CLIP, pixels: Tensor) -> None:
    """Of weights that are zero but for one, the loss is that one; louder counts above -quiet."""
    grouping, outputs = Grouping(24), run(clip, pixels)
    nothing = dict.fromkeys(vars(Weights()), 0.0)
    for name in ("mixed", "bent"):
        alone = grouping(outputs, Weights(**{**nothing, name: 2.0}))
        assert alone.item() == pytest.approx(2 * getattr(outputs, name).item(), rel=1e-5)
    quiet = -float(outputs.louder.min()) + 1.0
    loud = grouping(outputs, Weights(**{**nothing, "louder": 1.0, "quiet": quiet}))
    assert loud.item() == pytest.approx((outputs.louder + quiet).mean().item(), rel=1e-5)
    assert not math.isnan(grouping(outputs, Weights()).item())


def test_large_queries_and_keys_cost_where_attention_is_to_be_flat(
    clip: open_clip.CLIP, pixels: Tensor
) -> None:
    grouping, outputs = Grouping(24).eval(), run(clip, pixels)
    nothing = dict.fromkeys(vars(Weights()), 0.0)
    losses = []
    for flat in (0.0, 3.0):
        torch.manual_seed(0)
        losses.append(grouping(outputs, Weights(**{**nothing, "keys": 0.5, "flat": flat})).item())
    assert losses[1] - losses[0] == pytest.approx(
        1.5 * sum(values.square().mean().item() for values in outputs.keys), rel=1e-4
    )


def test_names_too_near_are_pushed_apart() -> None:
    """Of three names on the circle, at distances 0.1, about 0.3, and 0.4; then one step."""
    angles = 2 * torch.asin(torch.tensor([0.0, 0.1, 0.4]) / 2)
    names = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    between = (names[1] - names[2]).norm().item()
    loss = too_near(names)
    assert loss.item() == pytest.approx((APART - 0.1) + (APART - between), abs=1e-5)
    loss.backward()
    moved = names.detach() - 1e-3 * names.grad
    assert too_near(moved) < loss
    assert too_near(torch.eye(4)).item() == 0.0
