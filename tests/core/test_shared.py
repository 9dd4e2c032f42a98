"""A function of the user's cannot change what other variants share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention.vanilla import vanilla
from sclip_lab.core.functions import (
    bind_config,
    readout_function,
    refines_labels,
    refines_logits,
    weights_function,
)
from sclip_lab.data.folder import Folder
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import cosine


def doubles_tokens(ctx: Any) -> Tensor:
    ctx.tokens.mul_(2)
    return ctx.attention("query", "query")


def clears_a_shared_map(ctx: Any) -> Tensor:
    weights = ctx.attention("query", "key")
    weights[..., 0] = 0
    return weights


def doubles_weights_of_the_network(ctx: Any) -> Tensor:
    ctx.block.norm_1.weight.data.mul_(2)
    return ctx.attention("query", "query")


def clears_tokens_as_an_array(ctx: Any) -> Tensor:
    np.asarray(ctx.tokens.detach())[:, 0] = 0
    return ctx.attention("query", "query")


def doubles_tokens_as_an_array(ctx: Any) -> Tensor:
    array = ctx.tokens.numpy()
    array *= 2
    return ctx.attention("query", "query")


@readout_function
def turns_texts(encoded: Any, text: Tensor) -> Tensor:
    logits = cosine(encoded, text)
    text.neg_()
    return logits


@readout_function
def turns_patches(encoded: Any, text: Tensor) -> Tensor:
    logits = cosine(encoded, text)
    torch.neg(encoded.patches, out=encoded.patches)
    return logits


@pytest.mark.parametrize(
    "function",
    [
        doubles_tokens,
        clears_a_shared_map,
        clears_tokens_as_an_array,
        doubles_tokens_as_an_array,
        doubles_weights_of_the_network,
        turns_texts,
        turns_patches,
    ],
)
def test_a_write_is_an_error_and_changes_no_other_cell(
    function: Callable[..., Tensor],
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
) -> None:
    alone = lab.evaluate(
        ["vanilla", "csa"], tmp_path / "alone", backbone=backbone, dataset=photos,
        protocol=protocol, progress=False,
    )  # fmt: skip
    cells = [lab.Spec(name, backbone, protocol, photos) for name in ("vanilla", "csa")]
    if function in (turns_texts, turns_patches):
        other = Protocol(short_side=protocol.short_side, readout=function)
        broken = lab.Spec("csa", backbone, other, photos)
    else:
        broken = lab.Spec(lab.variant(function), backbone, protocol, photos)
    with pytest.raises(lab.LabError, match=f"{function.__name__} writes in place|read-only"):
        lab.evaluate([broken, *cells], tmp_path / "both", progress=False)
    together = lab.evaluate(cells, tmp_path / "both", progress=False)
    columns = ["attention", "image", "true", "predicted", "pixels"]
    assert together[columns].values.tolist() == alone[columns].values.tolist()


def own_tensors(ctx: Any) -> Tensor:
    weights = ctx.softmax(ctx.scores(ctx.query, ctx.query))
    weights[..., 0] *= 0.5
    weights[..., 1:].numpy()[:] *= 2
    return weights


def test_a_functions_own_tensors_are_its_own(backbone: Backbone) -> None:
    features = lab.dense_features(backbone, torch.rand(1, 3, 64, 64), lab.variant(own_tensors))
    assert features.isfinite().all()


def test_functions_of_the_package_are_not_guarded() -> None:
    bound = bind_config({"_target_": "sclip_lab.attention.vanilla.vanilla"}, weights_function)
    assert bound is not None
    assert bound.func is vanilla


def draws(ctx: Any, seed: int | None = None) -> Tensor:
    scores = ctx.scores(ctx.query, ctx.query)
    own = None if seed is None else torch.Generator().manual_seed(seed)
    return ctx.softmax(scores + torch.randn(scores.shape, generator=own))


def test_random_numbers_need_a_seed(backbone: Backbone) -> None:
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(RuntimeError, match=r"draws draws random numbers \(aten::randn"):
        lab.dense_features(backbone, image, lab.variant(draws))
    first, again, other = (
        lab.dense_features(backbone, image, lab.variant(draws, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda w: w[..., 1:], r"\(1, 4, 17, 16\)"),
        (lambda w: w.mean(1), r"\(1, 17, 17\)"),
        (lambda w: w.numpy(), r"\(1, 4, 17, 17\) float32 ndarray"),
        (lambda w: w > 0.1, r"\(1, 4, 17, 17\) torch.bool Tensor"),
        (lambda w: (9 * w).long(), r"\(1, 4, 17, 17\) torch.int64 Tensor"),
        (lambda w: None, "NoneType"),
        (lambda w: (w, w), "tuple"),
    ],
)
def test_weights_of_another_shape_are_named(
    backbone: Backbone, change: Callable[[Tensor], Any], made: str
) -> None:
    def odd(ctx: Any) -> Any:
        return change(ctx.softmax(ctx.scores(ctx.query, ctx.query)))

    with pytest.raises(lab.LabError, match=rf"attention 'odd' gave {made}.*; weights are a"):
        lab.dense_features(backbone, torch.randn(1, 3, 64, 64), lab.variant(odd))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits[..., 1:],
        lambda logits: logits.permute(0, 3, 1, 2),
        lambda logits: logits.flatten(1, 2),
        lambda logits: logits[:1],
        lambda logits: logits.double(),
        lambda logits: logits.numpy(),
        lambda logits: None,
    ],
)
def test_logits_of_another_shape_are_refused(
    backbone: Backbone, change: Callable[[Tensor], Any]
) -> None:
    @readout_function
    def odd(encoded: Any, text: Tensor) -> Any:
        return change(cosine(encoded, text))

    image = torch.zeros(96, 160, 3, dtype=torch.uint8).numpy()
    protocol = Protocol(short_side=96, crop_size=64, stride=32, readout=odd)
    with pytest.raises(lab.LabError, match=r"protocol\.readout gave .* patch logits are"):
        lab.segment(backbone, image, ["cat", "dog", "sky"], "csa", protocol)


@pytest.mark.parametrize("change", [
    lambda values: values[1:],
    lambda values: values.mT,
    lambda values: None,
])  # fmt: skip
@pytest.mark.parametrize("declare", [refines_logits, refines_labels])
def test_refined_values_of_another_shape_are_refused(
    backbone: Backbone, declare: Callable[..., Any], change: Callable[[Tensor], Any]
) -> None:
    @declare
    def odd(values: Tensor) -> Any:
        return change(values)

    image = torch.zeros(96, 160, 3, dtype=torch.uint8).numpy()
    protocol = Protocol(short_side=96, crop_size=64, stride=32, refinement=odd)
    with pytest.raises(lab.LabError, match=r"refinement gave .*; it must return l.* of the shape"):
        lab.segment(backbone, image, ["cat", "dog", "sky"], "csa", protocol)


def test_refined_logits_are_floats(backbone: Backbone) -> None:
    @refines_logits
    def half(mask: Tensor) -> Tensor:
        return mask.half()

    image = torch.zeros(96, 160, 3, dtype=torch.uint8).numpy()
    protocol = Protocol(short_side=96, crop_size=64, stride=32, refinement=half)
    with pytest.raises(lab.LabError, match=r"torch\.float16 Tensor; it must return logits"):
        lab.segment(backbone, image, ["cat", "dog"], "csa", protocol)


def test_a_function_cannot_end_the_process(backbone: Backbone) -> None:
    def leaves(ctx: Any) -> Tensor:
        raise SystemExit

    with pytest.raises(RuntimeError, match="leaves ends the process"):
        lab.dense_features(backbone, torch.randn(1, 3, 64, 64), lab.variant(leaves))
