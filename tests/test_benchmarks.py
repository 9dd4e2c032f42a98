"""The benchmark's yardstick computes what it says: SCLIP's official labels, and ours."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import compared, costs, kernels, memory, methods, reference, report, tasks
from sclip_lab.config.registry import load_attention, load_backbone, load_dataset, load_protocol
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.protocol import Protocol
from tests import toy, vectors

LOGITS = 5e-5  # what official codes differ from themselves in another precision
NEAR_TIES = 1e-3  # share of pixels whose two best classes lie within rounding


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.mean(a != b)) <= NEAR_TIES


def text_of_patches(backbone: Backbone, photo: Tensor, queries: int) -> Tensor:
    """(queries, embed_dim) unit rows that a network of random weights tells apart: some of its
    own patches, less their mean."""
    crop = photo[None, :, :64, :64]
    patches = dense_features(backbone, crop, load_attention("vanilla"), normalize=True).flatten(
        0, 2
    )
    chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:queries]
    rows = patches[chosen] - patches.mean(dim=0)
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def official_logits() -> Tensor:
    network = toy.network()
    photo = toy.inputs()["rect336x448"][0]
    return reference.slide(network.model, photo, (375, 500), toy.text(), "csa")


def test_reference_has_the_official_logits(official_logits: Tensor) -> None:
    expected = vectors.load("sclip_segmentor")["raw_logits_s4"]
    assert np.abs(official_logits[:, ::4, ::4].numpy() - expected).max() <= LOGITS


@pytest.mark.parametrize(
    ("case", "thresholds"),
    [
        ("a_scale40", (40.0, 0.0, 0.0)),
        ("b_scale65_prob0.1_area0.1", (65.0, 0.1, 0.1)),
        ("c_scale40_prob0.5", (40.0, 0.5, 0.0)),
        ("d_scale40_area0.25", (40.0, 0.0, 0.25)),
    ],
)
def test_reference_has_the_official_labels(
    case: str, thresholds: tuple[float, float, float], official_logits: Tensor
) -> None:
    arrays = vectors.load("sclip_segmentor")
    classes = torch.from_numpy(arrays["query_idx"])
    labels = reference.decide(official_logits, classes, *thresholds)
    assert near(labels.numpy(), arrays[f"{case}__label"])


@pytest.mark.parametrize(
    "thresholds",
    [{}, {"prob_threshold": 0.15, "area_threshold": 0.1, "logit_scale": 10.0}],
    ids=["argmax", "thresholds"],
)
def test_ours_has_the_labels_of_the_reference(
    thresholds: dict[str, float], backbone: Backbone
) -> None:
    protocol = Protocol(crop_size=64, stride=32, **thresholds)
    generator = torch.Generator().manual_seed(0)
    photo = torch.randn(3, 96, 140, generator=generator)
    classes = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    text = text_of_patches(backbone, photo, 7)
    variants = tasks.load_variants(tasks.VARIANTS)
    task = tasks.Task("tiny", (96, 140), (110, 150), classes, protocol)
    ours = tasks.sweep(backbone, photo, task, text, variants)
    for name, labels in zip(tasks.VARIANTS, ours, strict=True):
        logits = reference.slide(backbone.model, photo, task.target, text, name, 64, 32)
        expected = reference.decide(
            logits,
            classes,
            protocol.logit_scale,
            protocol.prob_threshold,
            protocol.area_threshold,
        )
        assert near(labels.numpy(), expected.numpy()), name
        assert len(np.unique(labels)) > 1, f"{name}: one label everywhere shows nothing"


def test_both_sides_are_compared_in_one_run(backbone: Backbone) -> None:
    classes = torch.tensor([0, 0, 1, 2])
    job = tasks.Task("tiny", (96, 140), (110, 150), classes, Protocol(crop_size=64, stride=32))
    sides = compared.compare(job, {"fp32": backbone}, ("csa", "vanilla"), 2, measured=1)
    assert set(sides.ratios()) == {"single_fp32", "sweep_fp32", "separate_over_sweep"}
    seconds = {name: spread["median"] for name, spread in sides.seconds().items()}
    assert seconds["reference_sweep"] == pytest.approx(2 * seconds["reference_single"], abs=2e-4)
    assert sides.equal >= 1 - NEAR_TIES
    [line] = report.lines({"sweep12_fp32": sides.ratios()["sweep_fp32"]})
    assert line.startswith("sweep12_fp32")
    assert "n=2" in line


def test_a_further_photo_is_copied_to_a_gpu_once_and_waits_for_nothing() -> None:
    two, three = (kernels.count(images, 30, 1) for images in (2, 3))
    assert three["transfers"] - two["transfers"] == 1
    assert two["waits"] == three["waits"] <= 2


def test_counted_operations_by_hand() -> None:
    # One block of width 2 on 3 tokens: 12 w^2 per token in linear maps, 2 products with 3 x 3
    # weights; a multiply-add is two operations.
    assert costs.block_operations(tokens=3, width=2) == 2 * (3 * 12 * 4 + 2 * 3 * 3 * 2)


def test_benchmarked_photos_are_as_large_as_said() -> None:
    photo = tasks.load_photos(toy.network(), (336, 448), 1)[0]
    assert photo.shape == (3, 336, 448)


def test_peak_memory_is_that_of_this_process_alone() -> None:
    gc.collect()  # what earlier tests left would else be freed in between
    before = memory.memory_in_use(reset_peak=True)
    # The system's own pages: numpy would be given what earlier tests left in the process.
    with mmap.mmap(-1, 64 << 20) as pages:
        np.frombuffer(pages, dtype=np.uint8)[:] = 1
    assert memory.memory_in_use(peak=True) - before == pytest.approx(64 << 20, rel=0.1)
    memory.memory_in_use(reset_peak=True)
    assert memory.memory_in_use(peak=True) - before < 32 << 20


def test_costs_of_a_pass_are_processor_seconds_of_its_stages() -> None:
    data = load_dataset("patchwork")
    protocol = load_protocol("unified", data.name)
    network = load_backbone("patchwork_vit")
    specs = [Spec(load_attention(a), network, protocol, data) for a in ("vanilla", "csa")]
    timings, seconds, peak = methods.cost(specs, 2)
    assert timings.images == 2
    assert {"trunk", "vanilla", "csa", "readout", "text"} <= set(timings.seconds)
    assert 0 < sum(timings.seconds.values()) <= seconds
    assert peak > 1e8
