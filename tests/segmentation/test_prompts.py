"""Text embeddings: the field's averaging, and a cache that cannot lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import prompts
from sclip_lab.segmentation.prompts import embed_vocabulary, templates
from sclip_lab.segmentation.protocol import Protocol

PROMPTS = ("a photo of a {}.", "art of the {}.", "{}")


@pytest.fixture(autouse=True)
def nothing_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_rows", {})


VOCABULARY = Vocabulary("three", (("dog", "puppy"), ("blue sky",), ("grass",)))


def test_normalised_averaged_normalised(backbone: Backbone) -> None:
    text = embed_vocabulary(backbone, VOCABULARY, PROMPTS)
    assert text.dtype == torch.float32
    for row, name in zip(text, ["dog", "puppy", "blue sky", "grass"], strict=True):
        tokens = backbone.tokenize([prompt.replace("{}", name) for prompt in PROMPTS])
        with torch.inference_mode():
            official = backbone.model.encode_text(tokens)  # open_clip's own text tower
        expected = F.normalize(F.normalize(official, dim=-1).mean(0), dim=-1)
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-6)


def test_template_sets() -> None:
    assert len(templates("openai_imagenet")) == 80
    assert len(set(templates("openai_imagenet"))) == 80
    assert all(t.count("{}") == 1 for t in templates("openai_imagenet"))
    assert templates(["{}"]) == ("{}",)
    with pytest.raises(LabError, match="did you mean openai_imagenet"):
        templates("openai_imagnet")


def test_cache_is_used(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(backbone, "encode_text", None)  # must not be called
    assert torch.equal(embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path), first)


def test_cache_tells_prompts_and_names_apart(backbone: Backbone, tmp_path: Path) -> None:
    other = Vocabulary("three", (("dog",), ("puppy",), ("blue sky",), ("lawn",)))
    embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path)
    embed_vocabulary(backbone, other, PROMPTS, tmp_path)
    embed_vocabulary(backbone, VOCABULARY, PROMPTS[:2], tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_vocabularies_share_queries(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Vocabulary("other", (("blue sky",), ("lawn",)))
    alone = embed_vocabulary(backbone, both, PROMPTS)
    prompts._rows.clear()
    embed_vocabulary(backbone, VOCABULARY, PROMPTS)
    encode, requested = backbone.encode_text, []
    monkeypatch.setattr(
        backbone, "encode_text", lambda texts, truncate: requested.append(texts) or encode(texts)
    )
    text = embed_vocabulary(backbone, both, PROMPTS)
    assert requested == [["a photo of a lawn.", "art of the lawn.", "lawn"]]
    assert torch.equal(text, alone)  # the same bits in any company


def test_memory_of_embeddings_is_bounded(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MOST_ROWS", 3)
    first = embed_vocabulary(backbone, VOCABULARY, PROMPTS)
    for name in ("lawn", "hill", "sea"):
        embed_vocabulary(backbone, Vocabulary("one", ((name,),)), PROMPTS)
    assert len(prompts._rows) == 3
    assert torch.equal(embed_vocabulary(backbone, VOCABULARY, PROMPTS), first)


def test_segment_embeds_a_vocabulary_once(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = Protocol(short_side=None, crop_size=64, stride=32, templates=PROMPTS)
    photo = np.zeros((64, 96, 3), dtype=np.uint8)
    csa = lab.load_attention("csa")
    first = lab.segment(backbone, photo, VOCABULARY, csa, protocol)
    monkeypatch.setattr(backbone, "encode_text", None)  # must not be called
    assert np.array_equal(lab.segment(backbone, photo, VOCABULARY, csa, protocol), first)


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file, but long enough to look at"])
def test_damaged_cache_is_made_again(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    first = embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path)
    [path] = tmp_path.iterdir()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path), first)
    assert "damaged" in caplog.text
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert torch.equal(embed_vocabulary(backbone, VOCABULARY, PROMPTS, tmp_path), first)
    assert not caplog.text
