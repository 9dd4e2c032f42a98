"""Every name of both libraries loads and equals its library's own forward, or says why not.

Slow: some 500 networks, each made small. A new release of a library is seen here.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import timm
import torch

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.survey import survey
from tests import toy
from tests.network.small_networks import (
    own_features,
    photos,
    refused,
    relative_error,
    small_clip,
    small_vit,
)
from tests.network.text_folders import text_folder

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]
EXACT = 5e-6
FAMILIES = {
    *("vision_transformer", "eva", "deit", "beit", "naflexvit", "vitamin"),
    *("vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam"),
    *("qwen3_vit", "gemma4_vit", "deepseek_vit", "volo"),
}
CLIPS = [
    name
    for name in open_clip.list_models()
    if not name.startswith(("RN", "convnext", "swin", "MobileCLIP-S", "MobileCLIP2-S"))
]
OF_HUB = [n for n in CLIPS if "hf_model_name" in open_clip.get_model_config(n)["text_cfg"]]
VITS = [
    name
    for name in timm.list_models()
    if timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in FAMILIES
]
# What some of timm's names have that is not supported: part of a name -> words of the one line.
REFUSED = {
    "_18x2_": "several attentions beside each other",
    "vit_dpwee_": "subtracts one softmax from another",
    "vit_dwee_": "subtracts one softmax from another",
    "vit_dlittle_": "subtracts one softmax from another",
}
# Families whose attention is not a softmax over patches -> words of the one line.
OTHER_ATTENTION = {
    "xcit": "XCA, attends across channels",
    "cait": "TalkingHeadAttn, mixes its heads",
    "convit": "GPSA, adds attention by position",
}


def equals_its_library(backbone: Backbone) -> None:
    images = photos(backbone)
    patches, whole = own_features(backbone, images)
    ours = toy.encoded(backbone, images, load_attention("vanilla"))
    assert relative_error(ours.patches.flatten(1, 2), patches) < EXACT
    assert relative_error(ours.class_embedding, whole) < EXACT


def texts_equal_their_library(backbone: Backbone, has_tokenizer: bool) -> None:
    texts = ["a photo of a cat", "sky", "a dog"]
    text = getattr(backbone.model, "text", backbone.model)
    if has_tokenizer:
        tokens = backbone.tokenize(texts)
    else:  # those of many names come from a hub
        generator = torch.Generator().manual_seed(2)
        tokens = torch.randint(3, 300, (3, text.context_length), generator=generator)
        backbone.tokenize = lambda texts: tokens
    with torch.inference_mode():
        expected = backbone.model.encode_text(tokens, normalize=False)
    assert relative_error(backbone.encode_text(texts), expected) < EXACT


@pytest.mark.parametrize("name", CLIPS)
def test_of_open_clip(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = None
    if name in OF_HUB:
        pytest.importorskip("transformers", reason="an optional package")
        folder = text_folder(tmp_path / "text", name)
    backbone = small_clip(monkeypatch, name, folder)
    equals_its_library(backbone)
    texts_equal_their_library(backbone, has_tokenizer=folder is not None)


@pytest.mark.parametrize("name", VITS)
def test_of_timm(name: str) -> None:
    says = next((words for part, words in REFUSED.items() if part in name), None)
    if says is None:
        equals_its_library(small_vit(name))
        return
    with pytest.raises(LabError, match=says) as error:
        small_vit(name)
    refused(error.value)


@pytest.mark.parametrize("family", OTHER_ATTENTION)
def test_other_attention_says_what_it_is(family: str) -> None:
    networks = list(survey(family))
    assert networks
    for network in networks:
        assert OTHER_ATTENTION[family] in network.refusal


def test_enough_networks_load() -> None:
    refused_names = [name for name in VITS if any(part in name for part in REFUSED)]
    assert len(VITS) - len(refused_names) >= 330


def test_the_table_has_every_name() -> None:
    networks = list(survey("eva")) + list(survey("ViT-B-16"))
    assert {n.name for n in networks if n.library == "timm"} >= {
        name for name in timm.list_models() if "eva" in name
    }
    assert not [n.name for n in networks if n.refusal and n.name.startswith("ViT-B-16")]
    row = next(n for n in networks if n.name == "ViT-B-16-quickgelu")
    assert list(row.facts.values())[:3] == [12, 16, 224]
    assert row.facts["activation"] == "QuickGELU"
    assert row.facts["channel means"] == "122.8 116.7 104.1"
    pe = next(iter(survey("PE-Core-B-16"))).facts
    facts = pe["class token"], pe["registers"], pe["channel means"]
    assert facts == ("yes", 0, "127.5 127.5 127.5")
