"""Bands and running maxima against the dense softmax over a [queries, H, W] tensor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import unit
from sclip_lab.segmentation.refinements.closing import closing

CLASSES = torch.tensor([0, 0, 1, 2, 2, 2, 3])


def fake(patches: Tensor, class_embedding: Tensor) -> Any:
    """What `Encoded` offers to readouts that look at embeddings alone."""
    state = SimpleNamespace(tokens=patches, grid=tuple(patches.shape[1:3]))
    return SimpleNamespace(patches=patches, class_embedding=class_embedding, state=state)


def dense(logits: Tensor, protocol: Protocol, classes: Tensor = CLASSES) -> Tensor:
    """The field's post-processing, all at once and in double precision.

    Softmax over queries, largest probability among a class's synonyms, small foreground classes
    set to zero, pixels below the probability threshold set to background.
    """
    probability = (logits.double() * protocol.logit_scale).softmax(dim=0)
    count = int(classes.max()) + 1
    per_class = torch.stack([probability[classes == c].amax(dim=0) for c in range(count)])
    label = per_class.argmax(dim=0)
    if protocol.area_threshold:
        area = torch.bincount(label.flatten(), minlength=count)
        foreground = area.sum() - area[protocol.background]
        for c in set(range(count)) - {protocol.background}:
            if foreground > 0 and area[c] / foreground <= protocol.area_threshold:
                per_class[c] = 0
    best, label = per_class.max(dim=0)
    return torch.where(best < protocol.prob_threshold, protocol.background, label)


@pytest.fixture(scope="module")
def plan() -> windows.Plan:
    return windows.plan((97, 131), (150, 101), 64, 28, 16)


@pytest.fixture(scope="module")
def laid_out(plan: windows.Plan) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(plan.num_windows, *plan.grid, 7, generator=generator) * 0.1
    patches[..., 6] -= 0.05  # a rare class
    return plan.lay_out(patches)


def readout(protocol: Protocol, classes: Tensor = CLASSES) -> Readout:
    text = unit(torch.randn(len(classes), 12, generator=torch.Generator().manual_seed(1)))
    return Readout(protocol, text, classes)


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"prob_threshold": 0.45},
        {"area_threshold": 0.1},
        {"area_threshold": 0.4},
        {"prob_threshold": 0.4, "area_threshold": 0.3, "logit_scale": 60.0},
        {"prob_threshold": 0.99, "logit_scale": 1.0},
    ],
    ids=str,
)
def test_labels_are_those_of_the_dense_way(
    plan: windows.Plan, laid_out: Tensor, protocol: dict[str, Any]
) -> None:
    chosen = Protocol(**protocol)
    expected = dense(plan.stitch(laid_out), chosen)
    result = readout(chosen).predict(plan, laid_out)
    assert result.dtype == torch.uint8
    assert tuple(result.shape) == plan.target
    assert (result != expected).sum() <= 2  # near-ties, fp32 against double
    if protocol.get("area_threshold") == 0.1:
        assert 3 in dense(plan.stitch(laid_out), Protocol())  # the rare class was there
        assert 3 not in result


def test_threshold_applies_after_classes_were_dropped() -> None:
    """A pixel of a dropped class goes to the next class, with that class's probability."""
    plan = windows.plan((16, 64), (16, 64), None, 1, 16)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 0.9, 0.1], [0.0, 0.0, 0.0, 0.2]])
    laid_out = logits[:, None]
    classes = torch.arange(3)
    for threshold in (0.0, 0.4):
        chosen = Protocol(logit_scale=10.0, area_threshold=0.3, prob_threshold=threshold)
        result = readout(chosen, classes).predict(plan, laid_out)
        assert torch.equal(result.long(), dense(plan.stitch(laid_out), chosen, classes))
        assert result[0, -1] == (1 if threshold == 0 else 0)


def test_background_alone_survives_an_area_threshold() -> None:
    plan = windows.plan((16, 16), (16, 16), None, 1, 16)
    chosen = Protocol(area_threshold=0.5)
    laid_out = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    assert not readout(chosen, torch.arange(2)).predict(plan, laid_out).any()


def test_patch_logits_are_cosines(plan: windows.Plan) -> None:
    built = readout(Protocol())
    patches, whole = torch.randn(3, 2, 2, 12), torch.randn(3, 12)
    result = built.patch_logits(fake(patches, whole))
    expected = torch.nn.functional.cosine_similarity(patches[..., None, :], built.text, dim=-1)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(built.patch_logits(fake(7 * patches, whole)), expected)


@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_class_token_joins_its_cosines(combine: str) -> None:
    target = "sclip_lab.segmentation.readouts.class_token.class_token"
    joined = Protocol(readout={"_target_": target, "combine": combine, "weight": -0.3})
    built, other = readout(Protocol()), readout(joined)
    patches, whole = torch.randn(3, 2, 2, 12), torch.randn(3, 12)
    alone = built.patch_logits(fake(patches, whole))
    cosine = torch.nn.functional.cosine_similarity(whole[:, None], built.text, dim=-1)
    cosine = cosine[:, None, None].expand_as(alone)
    expected = alone - 0.3 * cosine if combine == "add" else alone * cosine
    torch.testing.assert_close(other.patch_logits(fake(patches, whole)), expected)
    assert built.logits_key[1:] != other.logits_key[1:]


def test_refinements_run_in_order_on_logits_and_on_labels(
    plan: windows.Plan, laid_out: Tensor
) -> None:
    both = {
        "pamr": {
            "_target_": "sclip_lab.segmentation.refinements.pamr.pamr",
            "steps": 1,
            "dilations": [1],
        },
        "closing": {"_target_": "sclip_lab.segmentation.refinements.closing.closing", "size": 3},
    }
    image = torch.randn(3, *plan.resized, generator=torch.Generator().manual_seed(3))
    first = readout(Protocol(refinement=both["pamr"])).predict(plan, laid_out, image)
    result = readout(Protocol(refinement=both)).predict(plan, laid_out, image)
    assert torch.equal(result, closing(first, 3))
    assert not torch.equal(result, first)


def test_many_classes_need_more_than_a_byte() -> None:
    plan = windows.plan((16, 16), (2, 2), None, 1, 16)
    logits = torch.zeros(300, 1, 1)
    logits[299] = 1
    result = readout(Protocol(), torch.arange(300)).predict(plan, logits)
    assert result.dtype == torch.int16
    assert (result == 299).all()


def test_refinement_needs_the_image(plan: windows.Plan, laid_out: Tensor) -> None:
    refinement = {
        "_target_": "sclip_lab.segmentation.refinements.pamr.pamr",
        "steps": 1,
        "dilations": [1],
    }
    with pytest.raises(LabError, match="needs the image"):
        readout(Protocol(refinement=refinement)).predict(plan, laid_out)


def test_refinement_runs_on_logits_at_the_photos_size(plan: windows.Plan, laid_out: Tensor) -> None:
    from sclip_lab.segmentation.refinements.pamr import pamr

    image = torch.randn(3, *plan.resized, generator=torch.Generator().manual_seed(3))
    refinement = {
        "_target_": "sclip_lab.segmentation.refinements.pamr.pamr",
        "steps": 2,
        "dilations": [1, 3],
    }
    chosen = Protocol(refinement=refinement, prob_threshold=0.4)
    guide = torch.nn.functional.interpolate(image[None], size=plan.target, mode="bilinear")[0]
    refined = pamr(image=guide, mask=plan.stitch(laid_out), steps=2, dilations=[1, 3])
    result = readout(chosen).predict(plan, laid_out, image)
    assert (result != dense(refined, chosen)).sum() <= 2


def test_logits_that_are_not_finite_are_an_error(plan: windows.Plan, laid_out: Tensor) -> None:
    broken = laid_out.clone()
    broken[3, 2, 1] = torch.nan
    with pytest.raises(LabError, match="patch logits contain NaN"):
        readout(Protocol()).predict(plan, broken)
