"""MaskCLIP's head: official logits, prompt denoising and key smoothing; tables by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.readouts.maskclip import (
    key_smoothing,
    maskclip,
    prompt_denoising,
    smoothing_keys,
)
from tests import toy

ORIGINAL = {"quick_gelu": False, "layer_norm_eps": 1e-6}


def network(**arguments: object) -> Backbone:
    return toy.network(padding="corner", position_embedding="bicubic", **arguments)


def logits(image: Tensor) -> Tensor:
    f = dense_features(network(**ORIGINAL), image, load_attention("maskclip"), normalize=True)
    return (f @ toy.text().T).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("denoising", "smoothing"), [(0.995, 0.0), (0.0, 0.6), (0.995, 1.0)])
def test_readout_is_its_two_steps(denoising: float, smoothing: float) -> None:
    x, backbone = toy.inputs()["sq224_a"], network(**ORIGINAL)
    encoded = toy.encoded(backbone, x, load_attention("maskclip"))
    with torch.inference_mode():
        ours = maskclip(encoded, toy.text(), denoising, smoothing)
        expected = logits(x)
        if denoising:
            expected = prompt_denoising(expected, denoising)
        if smoothing:
            keys = smoothing_keys(toy.context(backbone, x).input)
            expected = key_smoothing(expected, keys, smoothing)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), expected)


def test_batch_equals_singles() -> None:
    x = torch.cat([toy.inputs()["sq224_a"], toy.inputs()["sq224_b"]])
    with torch.inference_mode():
        keys = smoothing_keys(toy.context(network(**ORIGINAL), x).input)
    both = logits(x)
    for i in range(2):
        one = slice(i, i + 1)
        assert torch.equal(prompt_denoising(both, 0.9)[one], prompt_denoising(both[one], 0.9))
        torch.testing.assert_close(
            key_smoothing(both, keys)[one], key_smoothing(both[one], keys[one])
        )


def test_denoising_by_hand() -> None:
    # Class 0 wins one patch surely, class 1 the other barely, class 2 none.
    cosines = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.105]], [[0.0, 0.1]]]])
    remaining = prompt_denoising(cosines, threshold=0.6)
    assert remaining[0, 0].tolist() == cosines[0, 0].tolist()
    assert remaining[0, 1].tolist() == [[-100.0, -100.0]]
    assert remaining[0, 2].tolist() == [[-100.0, -100.0]]
    assert torch.equal(prompt_denoising(cosines, threshold=0.0), cosines)


def test_smoothing_only_touches_unsure_patches() -> None:
    cosines = torch.tensor([[[[0.9, 0.0, 0.5]], [[0.0, 0.0, 0.0]]]])  # the middle one is unsure
    keys = torch.eye(3)[None] + 1e-3
    probability = torch.softmax(100 * cosines, dim=1)
    smoothed = key_smoothing(cosines, keys, threshold=0.9)
    assert torch.equal(smoothed[..., [0, 2]], probability[..., [0, 2]])
    assert not torch.equal(smoothed[..., 1], probability[..., 1])
    assert torch.equal(key_smoothing(cosines, keys, threshold=0.0), probability)


def test_refusals() -> None:
    with pytest.raises(LabError, match="threshold 2"):
        prompt_denoising(torch.zeros(1, 2, 3, 3), threshold=2.0)
