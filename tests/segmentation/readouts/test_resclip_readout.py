"""ResCLIP's semantic feedback, against the official code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import load_attention
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.readouts import resclip as feedback
from sclip_lab.segmentation.readouts.cosine import unit
from tests import toy
from tests.test_parity import FEATURES, difference, prepared

VOC21 = {"share": 0.7, "gain": 2.2, "threshold": 0.5}
CONTEXT59 = {"share": 0.7, "gain": 1.8, "threshold": 0.25}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "resclip_full_voc21": ("resclip", {}, VOC21),
    "resclip_full_context59": ("resclip", {"mix": {"share": 0.4}}, CONTEXT59),
    "resclip_full_sclip": ("resclip_sclip", {}, VOC21),
    "resclip_sfr_only": ("naclip", {}, VOC21),
}
TEXT = toy.text()


def second(backbone: Backbone, images: Tensor, variant: Variant, **parameters: float) -> Tensor:
    """(batch, grid_h, grid_w, embed_dim) patch embeddings of the second pass."""
    settings = {"scale": 40.0, "steps": 10, "dilations": (8, 16), "threshold": 0.5, **parameters}
    first = toy.encoded(backbone, images, variant)
    with torch.inference_mode():
        return feedback.second_pass(first, TEXT, **settings).patches


def run_of(name: str) -> tuple[Backbone, Variant, dict[str, float]]:
    attention, overrides, parameters = RUNS[name]
    case = {"attention": attention, "overrides": overrides, "position_embedding": "bicubic_offset"}
    return *prepared(case), parameters


def test_a_batch_gets_feedback_image_by_image() -> None:
    backbone, variant, parameters = run_of("resclip_full_voc21")
    images = [toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]]
    together = second(backbone, torch.cat(images), variant, **parameters)
    for image, ours in zip(images, together, strict=True):
        alone = second(backbone, image, variant, **parameters)
        assert difference(ours.numpy(), alone[0].numpy()) <= FEATURES


def test_no_share_and_no_gain_is_the_variant_itself() -> None:
    backbone, variant, _ = run_of("resclip_full_voc21")
    image = toy.inputs()["sq224_a"]
    ours = second(backbone, image, variant, share=0.0, gain=1.0)
    assert difference(ours.numpy(), dense_features(backbone, image, variant).numpy()) <= FEATURES


def test_feedback_in_several_blocks() -> None:
    backbone, _, parameters = run_of("resclip_full_voc21")
    variant = load_attention("csa", layers="last 3")
    image = toy.inputs()["quirk112x448"]
    ours = second(backbone, image, variant, **parameters)
    assert ours.shape == (1, 7, 28, 64)
    last = second(backbone, image, load_attention("csa"), **parameters)
    assert difference(ours.numpy(), last.numpy()) > 0.01


def test_readout_is_the_cosines_of_the_second_pass() -> None:
    backbone, variant, parameters = run_of("resclip_full_voc21")
    encoded = toy.encoded(backbone, toy.inputs()["sq224_a"], variant)
    with torch.inference_mode():
        logits = feedback.resclip(encoded, TEXT, **parameters)
    again = unit(second(backbone, toy.inputs()["sq224_a"], variant, **parameters)) @ TEXT.T
    torch.testing.assert_close(logits, again)


def test_patch_label_is_the_mode_and_the_smallest_of_several() -> None:
    label = torch.tensor([[2, 2, 1, 0, 9], [1, 1, 1, 0, 9]])  # last column: no whole patch
    probabilities = torch.nn.functional.one_hot(label, 10).permute(2, 0, 1).float()
    assert feedback.patch_labels(probabilities, 2, threshold=0.5).tolist() == [[1, 0]]
    uncertain = 0.3 * probabilities
    assert feedback.patch_labels(uncertain, 2, threshold=0.5).tolist() == [[0, 0]]


def test_affinity_of_one_row_by_hand() -> None:
    # M = 4. From 0 to 3 the samples are 0, 0.75, 1.5, 2.25 -> patches 0, 1, 2, 2: it meets the
    # other label; back from 3 they are 3, 2.25, 1.5, 0.75 -> 3, 2, 2, 1.
    affinity = feedback.label_affinity(torch.tensor([[5, 5, 7, 5, 5]]))
    damped = np.exp(-3 / 4)
    assert affinity[0, 3] == affinity[3, 0] == pytest.approx(damped)
    assert affinity[0, 1] == affinity[0, 0] == 1
    assert affinity[0, 2] == affinity[2, 4] == 0
    # From 1 to 4: 1, 1.75 -> 2: damped as well.
    assert affinity[1, 4] == pytest.approx(damped)


def test_one_patch_and_one_label() -> None:
    assert feedback.label_affinity(torch.tensor([[3]])).tolist() == [[1.0]]
    matrix = feedback.feedback_matrix(torch.zeros(3, 4, dtype=torch.long))
    assert matrix.shape == (13, 13)
    assert matrix.max() == 1
    assert (matrix[0] == 0).all()
    assert (matrix[:, 0] == 0).all()
