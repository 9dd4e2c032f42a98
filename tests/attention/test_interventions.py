"""Interventions: each changes what it says and nothing else; closed forms and invariants."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention.interventions.entropy import relative_entropy
from sclip_lab.attention.interventions.sides import Sides, patches_of
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import variant_label
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.attention import patch_rows
from sclip_lab.diagnostics.same_class import inter_class_mass
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context
from sclip_lab.network.scene import Scene
from sclip_lab.network.truth import PatchLabels

GRID = (6, 8)
load = lab.load_attention


def truth(void: bool = False) -> Tensor:
    """Three classes in uneven regions; the first row is void where asked for."""
    labels = torch.zeros(2, *GRID, dtype=torch.long)
    labels[:, :, 5:] = 1
    labels[1, 3:, :4] = 2
    if void:
        labels[:, 0] = -1
    return labels


@pytest.fixture
def context(backbone: Backbone, images: Tensor) -> Context:
    return in_last_block(backbone, images, truth())


def in_last_block(backbone: Backbone, images: Tensor, labels: Tensor) -> Context:
    tokens, history = backbone.embed(images), ()
    for block in backbone.blocks[:-1]:
        history = (*history, BlockInput(block, tokens))
        tokens = block.plain(tokens)
    scene = Scene(labels=PatchLabels.of(labels))
    return Context(BlockInput(backbone.blocks[-1], tokens), history, GRID, scene=scene)


@torch.inference_mode()
def weights(variant: Variant, ctx: Context) -> Tensor:
    return variant.map(ctx).expand(-1, ctx.block.num_heads, -1, -1)


def close(a: Tensor, b: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a.double(), b.double(), atol=atol, rtol=0)


def around(ctx: Context, a: Tensor, b: Tensor) -> None:
    """The class token's row and column are equal."""
    assert torch.equal(a[..., 0], b[..., 0])
    assert torch.equal(a[..., 0, :], b[..., 0, :])


# ------------------------------------------------------------ set_mass


@pytest.mark.parametrize("base", ["vanilla", "csa", "uniform"])
@pytest.mark.parametrize("other", [0.0, 0.13, 0.5, 1.0])
def test_set_mass_in_closed_form(base: str, other: float, context: Context) -> None:
    before = weights(load(base), context)
    after = weights(load("set_mass", base=base, other=other), context)
    around(context, before, after)
    patches, sides = patches_of(context, before), Sides.of(context)
    own, others = sides.mass(patches)
    expected = (own + others) * (
        (1 - other) * patches * sides.same / own + other * patches * sides.other / others
    )
    close(patches_of(context, after), expected)
    # What the diagnostic measures is what was set.
    close(inter_class_mass(patch_rows(after, GRID).mean(1), truth().flatten(1)),
          torch.full((2,), other), 1e-5)  # fmt: skip


def test_set_mass_takes_another_variants_share(context: Context) -> None:
    sides, csa = Sides.of(context), weights(load("csa"), context)
    after = weights(load("set_mass", base="vanilla", other="csa"), context)
    close(sides.share(patches_of(context, after)), sides.share(patches_of(context, csa)))
    close(after.sum(-1), torch.ones_like(after[..., 0]), 1e-5)


@pytest.mark.parametrize("scope", ["class", "window"])
def test_mass_over_a_class_or_window_is_one_factor_on_the_odds(
    scope: str, context: Context
) -> None:
    sides, labels = Sides.of(context), truth().flatten(1)
    before = sides.share(patches_of(context, weights(load("csa"), context)))[..., 0]
    changed = load("set_mass", base="csa", other=0.3, scope=scope)
    after = sides.share(patches_of(context, weights(changed, context)))[..., 0]
    factor = torch.logit(after) - torch.logit(before)
    for window in range(2):
        groups = labels[window].unique() if scope == "class" else [None]
        for group in groups:
            rows = labels[window] == group if group is not None else labels[window] >= 0
            close(after[window][:, rows].mean(-1), torch.full((4,), 0.3), 1e-6)
            own = factor[window][:, rows]
            assert (own.amax(-1) - own.amin(-1)).max() < 1e-4  # float32 weights
            assert after[window][:, rows].std() > 1e-4  # rows keep their differences


def test_void_patches_and_rows_of_one_side_stay(backbone: Backbone, images: Tensor) -> None:
    labels = truth(void=True)
    labels[0, 1:] = 4  # the first window holds one class and void
    ctx = in_last_block(backbone, images, labels)
    before = weights(load("csa"), ctx)
    after = weights(load("set_mass", base="csa", other=0.2), ctx)
    assert torch.equal(after[0], before[0])
    void = 1 + torch.arange(GRID[1])
    assert torch.equal(after[1][:, void], before[1][:, void])
    assert torch.equal(after[1][..., void], before[1][..., void])
    assert not torch.equal(after[1], before[1])
    close(after.sum(-1), before.sum(-1), 1e-5)


def test_rows_without_weight_on_a_side_stay_and_are_told(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    before = weights(load("maskclip"), context)
    assert torch.equal(weights(load("set_mass", base="maskclip", other=0.4), context), before)
    assert "100 % of the rows have no weight on one of their sides" in caplog.text


# ------------------------------------------------------------ entropy


@pytest.mark.parametrize("at", [0.2, 0.7, 0.98])
def test_entropy_is_set_and_mass_stays(at: float, context: Context) -> None:
    sides = Sides.of(context)
    before, after = (weights(v, context) for v in (load("csa"), load("entropy", at=at)))
    around(context, before, after)
    for side in (sides.same, sides.other):
        value = relative_entropy(patches_of(context, after), side)
        close(value, torch.full_like(value, at), 2e-5)
        one, two = ((patches_of(context, w) * side).sum(-1) for w in (before, after))
        close(one, two)
        # One temperature: logarithms are in one ratio, so the order of patches stays.
        some = side.expand_as(patches_of(context, before))[0, 0, 0]
        a, b = (patches_of(context, w)[0, 0, 0][some].log() for w in (before, after))
        ratio = (b - b[0])[1:] / (a - a[0])[1:]
        close(ratio, ratio.mean().expand_as(ratio), 2e-3 * float(ratio.mean()))


def test_entropy_of_the_same_map_changes_nothing(context: Context) -> None:
    close(weights(load("entropy", base="csa", at="csa"), context), weights(load("csa"), context))


def test_entropy_ends(context: Context) -> None:
    sides = Sides.of(context)
    flat = patches_of(context, weights(load("entropy", at=1.0), context))
    for side in (sides.same, sides.other):
        share = flat * side / (flat * side).sum(-1, keepdim=True)
        uniform = side / side.sum(-1, keepdim=True).double()
        close(share, uniform.expand_as(share), 1e-4)
    sharp = patches_of(context, weights(load("entropy", at=0.0), context))
    top = (sharp * sides.same).amax(-1) / (sharp * sides.same).sum(-1)
    assert top.min() > 0.99


# ------------------------------------------------------------ shuffled, between, composed


@pytest.mark.parametrize("within", ["class", "distance", "window"])
def test_shuffled_permutes_within_groups(within: str, context: Context) -> None:
    before = patches_of(context, weights(load("csa"), context))
    variant = load("shuffled", base="csa", within=within, seed=3)
    after = patches_of(context, weights(variant, context))
    assert ("labels" in variant.uses) == (within == "class")
    assert not torch.equal(before, after)
    close(before.sort(-1).values, after.sort(-1).values, 1e-7)
    places = np.stack(np.unravel_index(np.arange(math.prod(GRID)), GRID), 1)
    for row in (0, 17, 40):
        distance = np.square(places - places[row]).sum(1)
        groups = {"class": truth()[1].flatten() == truth()[1].flatten()[row],
                  "distance": torch.from_numpy(distance), "window": torch.zeros(48)}  # fmt: skip
        for value in groups[within].unique():
            mask = groups[within] == value
            one, two = (w[1, 2, row][mask].sort().values for w in (before, after))
            close(one, two, 1e-7)
    again = patches_of(context, weights(load("shuffled", base="csa", within=within, seed=3),
                                        context))  # fmt: skip
    assert torch.equal(after, again)
    other = patches_of(context, weights(load("shuffled", base="csa", within=within, seed=4),
                                        context))  # fmt: skip
    assert not torch.equal(after, other)


def test_between_ends_and_row_sums(context: Context) -> None:
    vanilla, csa = (weights(load(name), context) for name in ("vanilla", "csa"))
    close(weights(load("between", share=0.0), context), vanilla)
    close(weights(load("between", share=1.0, row_sum="csa"), context), csa)
    close(weights(load("between", share=0.25, row_sum=3.0), context),
          3 * (0.75 * vanilla + 0.25 * csa / 2), 1e-5)  # fmt: skip
    assert not load("between").uses


PARTS = ("place", "sharpness", "mass", "weight")


COMBINATIONS = list(itertools.product(("vanilla", "csa"), repeat=4))


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_composed_takes_each_part_from_its_own_map(
    names: tuple[str, ...], context: Context
) -> None:
    of = {part: weights(load(name), context) for part, name in zip(PARTS, names, strict=True)}
    after = weights(load("composed", **dict(zip(PARTS, names, strict=True))), context)
    if len(set(names)) == 1:
        assert torch.equal(after, of["place"])
    sides = Sides.of(context)
    patches = {part: patches_of(context, w) for part, w in {**of, "all": after}.items()}
    close(after.sum(-1), of["weight"].sum(-1), 1e-5)
    close(sides.share(patches["all"]), sides.share(patches["mass"]), 1e-5)
    for side in (sides.same, sides.other):
        one, two = (relative_entropy(patches[part], side) for part in ("all", "sharpness"))
        close(one, two, 2e-5)
        # Which patches weigh more: the order within the side, where float32 can tell it.
        a, b = (patches[part] * side for part in ("all", "place"))
        assert float((a.argmax(-1) == b.argmax(-1)).double().mean()) > 0.995


# ------------------------------------------------------------ ends


def test_oracle_and_blind_maps(backbone: Backbone, images: Tensor) -> None:
    ctx = in_last_block(backbone, images, truth(void=True))
    patches = patches_of(ctx, weights(load("oracle", row_sum=2.0), ctx))[1, 0]
    labels = truth(void=True)[1].flatten()
    for row in (3, 20, 47):
        same = labels == labels[row] if labels[row] >= 0 else torch.arange(48) == row
        close(patches[row], 2 * same / same.sum(), 1e-6)
    gaussian = patches_of(ctx, weights(load("blind", sigma=0.5), ctx))[0, 0]
    y, x = np.unravel_index(np.arange(48), GRID)
    expected = np.exp(-((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / 0.5)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(gaussian, expected, atol=1e-7)
    partner = patches_of(ctx, weights(load("blind", kind="partner"), ctx))[0, 0]
    assert partner.sum(0).eq(1).all()
    assert partner.sum(1).eq(1).all()
    assert not partner.diagonal().any()
    close(patches_of(ctx, weights(load("uniform"), ctx)), torch.full((2, 4, 48, 48), 1 / 48))
    assert not load("blind").uses


# ------------------------------------------------------------ the machinery


def test_keys_know_the_content_of_maps_and_not_their_names() -> None:
    mass_variant = load("set_mass", base="csa")
    by_content = load("set_mass", base={"_target_": load("csa").config["_target_"]})
    assert mass_variant.key == by_content.key
    assert mass_variant.config["base"] == "csa"
    assert mass_variant.maps["base"]["projections"] == ["query", "key"]
    other = load("set_mass", base={**by_content.config["base"], "temperature": 0.5})
    assert other.key != mass_variant.key
    assert load("set_mass", base="naclip").maps["base"]["prior"]
    assert variant_label(load("set_mass", base="csa", other=0.2)) == "set_mass(base=csa, other=0.2)"
    assert "sclip_lab.attention.correlative" in mass_variant.modules


def test_uses_reach_through_maps() -> None:
    assert load("between", a="vanilla", b="guided").uses == {"guidance"}
    assert load("between", a={"_target_": load("oracle").config["_target_"]}).uses == {"labels"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base": "cas"}, "did you mean csa"),
        ({"base": "proxyclip"}, "has no single map"),
        ({"base": "registers"}, r"changes more than its map \(entry, hidden\)"),
        ({"base": None}, "base"),
        ({"base": 3}, "base"),
    ],
    ids=str,
)
def test_maps_that_cannot_be(config: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        load("set_mass", **config)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("set_mass", {"other": 1.2}, "at most 1"),
        ("set_mass", {"scope": "rows"}, "did you mean row"),
        ("shuffled", {"within": "clas"}, "did you mean class"),
        ("shuffled", {"seed": -1}, "at least 0"),
        ("entropy", {"at": -0.1}, "at least 0"),
        ("between", {"share": 2.0}, "at most 1"),
        ("between", {"row_sum": 0.0}, "above 0"),
        ("blind", {"sigma": 0.0}, "above 0"),
        ("blind", {"kind": "gauss"}, "did you mean gaussian"),
        ("oracle", {"row_sum": -1.0}, "above 0"),
    ],
    ids=str,
)
def test_values_out_of_range(name: str, config: dict, message: str, context: Context) -> None:
    with pytest.raises(LabError, match=message):
        weights(load(name, **config), context)


def test_ground_truth_must_be_there_and_on_this_grid(backbone: Backbone, images: Tensor) -> None:
    oracle = load("oracle")
    with pytest.raises(LabError, match="reads ground truth; evaluate it on a data set"):
        lab.dense_features(backbone, images, oracle)
    with pytest.raises(LabError, match="expected whole numbers"):
        lab.dense_features(backbone, images, oracle, labels=truth()[:, :, :-1])
    ctx = in_last_block(backbone, images, truth())
    with pytest.raises(LabError, match=r"6 x 8 grid of patches; this block has 8 x 6"):
        weights(oracle, replace(ctx, grid=(8, 6)))


def test_what_does_not_say_that_it_reads_labels_cannot(backbone: Backbone, images: Tensor) -> None:
    def peeks(ctx: Context) -> Tensor:
        return ctx.attention() * ctx.labels.majority.float().mean()

    with pytest.raises(LabError, match="ground truth"):
        lab.dense_features(backbone, images, lab.variant(peeks), labels=truth())


@pytest.mark.parametrize("layers", [[-1], [1], [0, 3]], ids=str)
def test_any_layers(layers: list[int], backbone: Backbone, images: Tensor) -> None:
    parts = {"place": "csa", "sharpness": "csa", "mass": "csa", "weight": "csa"}
    one = lab.dense_features(backbone, images, load("csa", layers=layers))
    same = lab.dense_features(
        backbone, images, load("composed", layers=layers, **parts), labels=truth()
    )
    close(one, same)
    other = load("set_mass", base="csa", other=0.0, layers=layers)
    assert not torch.allclose(one, lab.dense_features(backbone, images, other, labels=truth()))


# ------------------------------------------------------------ labels


def test_labels_of_patches() -> None:
    counts = torch.tensor([[[[3, 1, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 4]]]])
    labels = PatchLabels(lambda: counts)
    assert labels.grid == (2, 2)
    assert labels.majority.tolist() == [[0, -1, 0, 2]]
    close(labels.shares[0], torch.tensor([[0.75, 0.25, 0], [0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]))
    moved = labels.moved((1, 1))
    assert moved.majority.tolist() == [[-1, -1, -1, 0]]
    assert torch.equal(PatchLabels.of(truth(void=True)).majority, truth(void=True).flatten(1))


def test_an_unknown_map_names_its_key() -> None:
    with pytest.raises(LabError, match=r"row_sum: unknown attention 'cssa'; did you mean csa"):
        lab.load_attention("between", row_sum="cssa")
