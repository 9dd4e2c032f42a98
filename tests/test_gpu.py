"""What a GPU should show: run with `pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import pytest
import torch

import sclip_lab as lab
from benchmarks import gpu
from sclip_lab.network.loading import load_backbone
from tests import toy

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.gpu
@NO_GPU
def test_features_equal_those_of_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_gpu = load_backbone(state_dict=toy.openai(toy.weights()), device="cuda")
    for name in ("csa", "naclip", "scclip", "gem"):
        variant = lab.load_attention(name)
        image = toy.inputs()["rect224x336"]
        expected = lab.dense_features(toy.network(), image, variant)
        features = lab.dense_features(on_gpu, image, variant).cpu()
        torch.testing.assert_close(features, expected, rtol=0, atol=5e-4, msg=name)


@pytest.mark.gpu
@NO_GPU
def test_voc_size_sweep_prints_its_stages() -> None:
    figures = gpu.measure(images=64)
    print(figures)
    assert {"trunk", "last blocks", "readout"} <= set(figures["milliseconds_per_image"])


@pytest.mark.slow
def test_the_script_on_a_cpu() -> None:
    figures = gpu.measure(images=2)
    assert figures["images"] == 2
    assert figures["seconds"] > 0
    assert {"trunk", "last blocks", "readout", "waiting for photos"} <= set(
        figures["milliseconds_per_image"]
    )
