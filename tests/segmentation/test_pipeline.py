"""Windows in chunks: the same bits as all at once, bounded, and the trunk never twice."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention.variant import Variant
from sclip_lab.config.folders import names
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_labels, uses
from sclip_lab.core.identity import remembered
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.block import Block
from sclip_lab.network.context import Context
from sclip_lab.network.text import Text
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import pipeline, views, windows
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.pipeline import Collected, Encoder, Windows
from sclip_lab.segmentation.protocol import Protocol
from tests.network.small_networks import small_vit
from tests.second_network import guide
from tests.variants import loaded_variant

VIEWS = views.checked(
    {
        "photo": {},
        "grey": {"change": {"_target_": "sclip_lab.segmentation.views.grey"}, "weight": 2},
        "flip": {"flip": "horizontal"},
        "blur": {"change": {"_target_": "sclip_lab.segmentation.views.blur", "size": 5}},
        "noise": {"change": {"_target_": "sclip_lab.segmentation.views.noise", "sigma": 9}},
    }
)
# Variants that need a file, or one window as a photo.
LEFT_OUT = {"csa_learned"}


def planned(count: int = 1) -> list[tuple[windows.Plan, Tensor]]:
    plan = windows.plan((96, 128), (90, 120), 64, 32, 16)
    generator = torch.Generator().manual_seed(0)
    return [
        (plan, torch.randint(256, (3, 96, 128), dtype=torch.uint8, generator=generator))
        for _ in range(count)
    ]


def all_variants(backbone: Backbone) -> list[Variant]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(7, backbone.embed_dim, generator=generator)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    text = Text.of(rows[:5], rows[5:])
    chosen = [name for name in names("attention") if name not in LEFT_OUT]
    variants = [loaded_variant(name).given(text) for name in chosen]
    # Ground truth has windows of a data set; tests/evaluation/test_oracles.py looks at those.
    return [attention for attention in variants if "labels" not in attention.uses]


@torch.inference_mode()
def patches(backbone: Backbone, most: int, changes: views.Views | None) -> dict[str, Tensor]:
    variants = all_variants(backbone)
    cut = Windows(planned(2), changes, backbone, guide(), most)
    collected, result = Collected(cut), {}
    for index, chunk, encoded in pipeline.run(Encoder(backbone), cut, variants):
        whole = collected.add(index, chunk, encoded)
        if whole is not None:
            result[variants[index].name] = whole.patches.clone()
    assert len(result) == len(variants)
    return result


@pytest.fixture(scope="module")
def at_once(backbone: Backbone) -> dict[str, Tensor]:
    return patches(backbone, 1000, None)


@pytest.mark.parametrize("most", [2, 3, 7])
def test_every_variant_has_the_same_bits_in_chunks(
    backbone: Backbone, at_once: dict[str, Tensor], most: int
) -> None:
    in_chunks = patches(backbone, most, None)
    different = [name for name in at_once if not torch.equal(at_once[name], in_chunks[name])]
    assert not different


def test_all_windows_of_a_photo_in_chunks_on_a_rotary_network() -> None:
    """Between chunks and the photo the trunk runs on, with the rotation of the windows' grid."""
    network = small_vit("eva02_tiny_patch14_224")
    plan = windows.plan((84, 140), (80, 130), 56, 28, 14)
    pixels = torch.randint(256, (3, 84, 140), generator=torch.Generator().manual_seed(0))
    features = []
    for most in (1000, 2):
        cut = Windows([(plan, pixels.to(torch.uint8))], None, network, most=most)
        [(_, _, encoded)] = pipeline.run(Encoder(network), cut, [loaded_variant("gla")])
        features.append(encoded.patches)
    torch.testing.assert_close(*features, atol=1e-5, rtol=0)


def test_views_in_chunks(backbone: Backbone) -> None:
    [(plan, pixels)] = planned()
    cut = Windows([(plan, pixels)], VIEWS, backbone, most=4)
    normalised = backbone.normalise(pixels[None])[0]
    images = plan.cut(normalised)
    expected = torch.cat([views.see_one(images, view, name) for name, view in VIEWS.items()])
    assert torch.equal(torch.cat([cut.cut(chunk) for chunk in cut.chunks]), expected)
    assert cut.every == slice(0, 5 * plan.num_windows)
    assert torch.equal(cut.cut(cut.first_view(0)), plan.cut(normalised))


@pytest.mark.parametrize(("total", "most"), [(1, 1), (2, 1), (3, 2), (6, 6), (7, 3), (429, 10)])
def test_chunks_cover_all_and_none_is_a_single_window(total: int, most: int) -> None:
    chunks = pipeline._chunks(total, most)
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(total))
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert min(sizes) >= min(2, total)
    assert max(sizes) <= max(3, most)


@torch.inference_mode()
def test_no_window_goes_through_a_block_twice(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where one variant looks at chunks and another at the whole photo."""
    ran: Counter[int] = Counter()
    original = Block.plain

    def counted(self: Block, tokens: Tensor) -> Tensor:
        ran[self.index] += len(tokens)
        return original(self, tokens)

    monkeypatch.setattr(Block, "plain", counted)
    count = planned()[0][0].num_windows
    for chosen in (("gla",), ("csa", "gla"), ("csa", "clearclip", "gla")):
        ran.clear()
        cut = Windows(planned(), None, backbone, most=2)
        assert len(cut.chunks) > 1
        variants = [lab.load_attention(name) for name in chosen]
        assert len(list(pipeline.run(Encoder(backbone), cut, variants))) > 0
        assert ran == dict.fromkeys(range(backbone.depth - 1), count), chosen


@torch.inference_mode()
def test_a_function_that_looks_at_the_photo_without_saying_so_is_refused(
    backbone: Backbone,
) -> None:
    def looks(ctx: Context) -> Tensor:
        assert len(ctx.photos) > 0
        return ctx.attention()

    variant = lab.variant(looks)
    list(pipeline.run(Encoder(backbone), Windows(planned(), None, backbone), [variant]))
    cut = Windows(planned(), None, backbone, most=2)
    with pytest.raises(LabError, match='uses\\("photo"\\)'):
        list(pipeline.run(Encoder(backbone), cut, [variant]))


def readout(name: str, **parameters: Any) -> dict[str, Any]:
    return {"_target_": f"sclip_lab.segmentation.readouts.{name}", **parameters}


def refinement(name: str, **parameters: Any) -> dict[str, Any]:
    return {"_target_": f"sclip_lab.segmentation.refinements.{name}", **parameters}


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "views": {"views": VIEWS},
    "whole photo readout": {"readout": readout("lposs.lposs", neighbours=20)},
    "class of the photo": {"readout": readout("rfclip.rfclip")},
    "feedback": {"readout": readout("resclip.resclip", steps=2)},
    "prototypes": {"readout": readout("prototypes.prototypes")},
    "levels": {"readout": readout("cliper.cliper")},
    "pixels": {"refinement": refinement("lposs.lposs", radius=2)},
    "threshold": {
        "prob_threshold": {"_target_": "sclip_lab.segmentation.thresholds.entropy"},
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_evaluation_and_segment_in_chunks(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path, change: str
) -> None:
    """Counts, pictures and diagnostics are those of all windows at once."""
    changed = replace(protocol, **CHANGES[change])
    chosen = ("csa", "cliper") if change == "levels" else ("csa", "gla", "gla_proxy", "naclip")
    variants = [lab.load_attention(name) for name in chosen]
    specs = [lab.Spec(v, backbone, changed, photos, guidance=guide()) for v in variants]
    measures = ("attention_entropy", "spatial_invariance")
    frames = []
    for number, most in enumerate((1000, 2, 3)):
        remaining = Diagnostics(measures, 2)
        store = Store(tmp_path / str(number))
        df = lab.evaluate(
            specs, store, observers=[Pictures(2, 2), remaining], batch_windows=most, progress=False
        )
        columns = ["attention", "image", "true", "predicted", "pixels"]
        rows = df[columns].astype({"attention": str, "image": str})
        values = [store.diagnostics(spec)[["image", "measure", "value"]] for spec in specs]
        frames.append((rows, pd.concat(values, ignore_index=True)))
    for rows, values in frames[1:]:
        pd.testing.assert_frame_equal(rows, frames[0][0])
        pd.testing.assert_frame_equal(values, frames[0][1], check_exact=False, rtol=1e-5)
    if change == "prototypes":  # learns from a data set
        return
    vocabulary, image = photos.vocabulary, photos[0].image
    labels = [
        lab.segment(backbone, image, vocabulary, variants[0], changed, guide(), batch_windows=most)
        for most in (1000, 2)
    ]
    assert np.array_equal(*labels)


@pytest.mark.parametrize("declared", [False, True])
def test_a_refinement_says_that_it_reads_the_blocks(
    backbone: Backbone, photos: Folder, protocol: Protocol, declared: bool
) -> None:
    """Else what entered them need not stay in memory for all windows of a photo."""

    def step(prediction: Tensor, encoded: Encoded) -> Tensor:
        assert len(encoded.history[0].tokens) > 2
        return prediction

    step = refines_labels(step)
    named = remembered(uses("history")(step) if declared else step)
    refined = replace(protocol, refinement={"_target_": named})
    chosen = photos.vocabulary, lab.load_attention("csa"), refined
    lab.segment(backbone, photos[0].image, *chosen)
    context = contextlib.nullcontext() if declared else pytest.raises(LabError, match='"history"')
    with context:
        lab.segment(backbone, photos[0].image, *chosen, batch_windows=2)


@pytest.mark.parametrize("step", ["pamr.pamr", "lposs.lposs"])
def test_memory_given_back_before_a_refinement_changes_no_label(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    refined = replace(protocol, refinement=refinement(step))
    call = partial(lab.segment, backbone, photos[0].image, photos.vocabulary, "csa", refined)
    expected = call()
    assert all(block._linear for block in backbone.blocks)
    monkeypatch.setattr(pipeline, "LARGE_LOGITS", 0)
    assert np.array_equal(call(), expected)
    assert not any(block._linear for block in backbone.blocks)
    assert np.array_equal(call(), expected)


def test_more_variants_and_larger_windows_leave_room_for_fewer(backbone: Backbone) -> None:
    small, large = (windows.plan((512, 512), (512, 512), side, 32, 16) for side in (64, 512))
    counts = [
        pipeline.at_once(backbone, small, 1),
        pipeline.at_once(backbone, small, 60),
        pipeline.at_once(backbone, large, 60),
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] >= 2


def test_a_machine_with_little_memory_gets_smaller_chunks(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned()[0][0]
    usual = pipeline.at_once(backbone, plan, 4)
    monkeypatch.setattr(pipeline, "CPU_BYTES", pipeline.CPU_BYTES // 64)
    assert pipeline.at_once(backbone, plan, 4) < usual
