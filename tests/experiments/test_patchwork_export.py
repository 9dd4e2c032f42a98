"""Training pairs and loss of patchwork_vit, and the weights that are shipped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from experiments.patchwork.export import measure
from experiments.patchwork.scenes import (
    MOST_NAMES,
    WINDOW,
    Captions,
    contrastive_loss,
    draw_windows,
    scene_pool,
    top1,
)
from sclip_lab.data.patchwork import CLASSES, Patchwork

ASSETS = Path(__file__).parents[2] / "sclip_lab/assets/patchwork_vit"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((ASSETS / "config.json").read_text())


@pytest.fixture(scope="module")
def model(config: dict[str, Any]) -> Any:
    model = open_clip.CLIP(**config)
    model.load_state_dict(load_file(ASSETS / "model.safetensors"), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def captions(config: dict[str, Any]) -> Captions:
    text = config["text_cfg"]
    encode = open_clip.SimpleTokenizer().encode
    return Captions(encode, text["context_length"], text["vocab_size"])


def test_caption_ids_are_the_tokenizers(captions: Captions) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    for names in ([CLASSES[0]], CLASSES[4:9], CLASSES[::-3]):
        assert torch.equal(captions.encode(list(names)), tokenizer([", ".join(names)])[0])


def test_captions_name_what_is_there(captions: Captions) -> None:
    rng = np.random.default_rng(0)
    present = rng.random((400, len(CLASSES))) < 0.2
    present[:, 3] = True
    ids, caption_names = captions.draw(present, 0.5, rng)
    assert ids.shape == (400, 24)
    assert not (caption_names & ~present).any()
    several = present.sum(axis=1) > 1
    brief = (caption_names.sum(axis=1) == 1)[several].mean()
    assert brief == pytest.approx(0.5, abs=0.1)
    several = caption_names.sum(axis=1) > 1
    assert (caption_names.sum(axis=1) == np.minimum(present.sum(axis=1), MOST_NAMES))[several].all()


def test_windows_tell_what_covers_them() -> None:
    """A mask of two halves, cut anywhere: the share of each class is known from the cut."""
    image = np.zeros((1, 128, 160, 3), np.uint8)
    mask = np.zeros((1, 128, 160), np.uint8)
    mask[:, :, 80:] = 5
    rng = np.random.default_rng(0)
    pixels, present = draw_windows((image, mask), 200, rng, 64)
    assert pixels.shape == (200, 64, 64, 3)
    assert draw_windows((image, mask), 2, rng)[0].shape == (2, WINDOW, WINDOW, 3)
    assert present[:, [0, 5]].any(axis=1).all()
    assert not np.delete(present, [0, 5], axis=1).any()
    # left edge uniform on 0 .. 96: class 5 is there when 64 - (80 - left) >= 0.04 * 64
    assert present[:, 5].mean() == pytest.approx(78 / 97, abs=0.1)


def test_the_pool_is_the_train_split(tmp_path: Path) -> None:
    images, masks = scene_pool(tmp_path / "scenes", 3)
    world = Patchwork("train", limit=3)
    for index in range(3):
        assert np.array_equal(images[index], world[index].image)
        assert np.array_equal(masks[index], world[index].mask)
    easy, _ = scene_pool(tmp_path / "easy", 3, easy=True)
    assert not np.array_equal(easy, images)


def test_loss_with_one_positive_each_is_clips() -> None:
    """Oracle: open_clip's own ClipLoss on pairs whose captions are true of one window only."""
    generator = torch.Generator().manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=1)
        for _ in range(2)
    )
    one = np.eye(6, dtype=bool)
    ours = contrastive_loss(image, text, torch.tensor(7.0), one, one)
    theirs = open_clip.ClipLoss()(image, text, torch.tensor(7.0))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_loss_with_equal_features_is_log_of_the_batch() -> None:
    same = torch.nn.functional.normalize(torch.ones(5, 4), dim=1)
    present = np.ones((5, 2), bool)
    loss = contrastive_loss(same, same, torch.tensor(3.0), present, present)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


def test_top1_counts_any_present_class() -> None:
    names = torch.eye(3)
    image = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    present = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]], bool)
    assert top1(image, names, present) == 0.75


def test_shipped_weights_fit_the_bars(model: Any, captions: Captions) -> None:
    """At most 12 MB, finite, at least 8 blocks, and top-1 of at least 97 % on held-out scenes."""
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) <= 12e6
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert len(model.visual.transformer.resblocks) >= 8
    figures = measure(model, captions, scenes=200)
    assert figures["top1"] >= 0.97
    assert figures["chance"] < 0.5
